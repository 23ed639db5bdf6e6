// Renders templates for the oracle test. Each line of standard input is a JSON object {"template", "variables", "untrusted",
// "now": [year, month, day, hour, minute]}; each line of standard output is {"text", "untrusted"} or {"error"}.
#include <iostream>

#include "io/jinja.h"

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    const auto question = nlohmann::ordered_json::parse(line, nullptr, false);
    if (!question.is_object() || !question.contains("template") || !question["template"].is_string()) return 2;
    nlohmann::ordered_json answer;
    const auto parsed = retort::jinja::Template::parse(question["template"].get<std::string>());
    if (!parsed.ok()) {
      answer["error"] = parsed.error().message;
    } else {
      retort::jinja::RenderOptions options;
      options.untrusted = question.value("untrusted", std::vector<std::string>());
      if (const auto now = question.value("now", std::vector<int>()); now.size() == 5) {
        std::tm tm{};
        tm.tm_year = now[0] - 1900, tm.tm_mon = now[1] - 1, tm.tm_mday = now[2], tm.tm_hour = now[3], tm.tm_min = now[4];
        std::mktime(&tm);
        options.now = tm;
      }
      const auto rendered = parsed->render(question["variables"], options);
      if (rendered.ok()) {
        answer["text"] = rendered->text;
        answer["untrusted"] = rendered->untrusted;
      } else {
        answer["error"] = rendered.error().message;
      }
    }
    std::cout << answer.dump() << "\n";
  }
  return 0;
}
