#include "io/chat_template.h"

#include <gtest/gtest.h>

namespace retort {
namespace {

using jinja::RenderOptions;
using jinja::Template;
using nlohmann::ordered_json;

std::string render(const std::string& source, const ordered_json& variables = ordered_json::object(), RenderOptions options = {}) {
  const auto parsed = Template::parse(source);
  if (!parsed.ok()) return "ERROR " + parsed.error().message;
  const auto out = parsed->render(variables, options);
  return out.ok() ? out->text : "ERROR " + out.error().message;
}

TEST(Jinja, BlocksLoseTheirLine) {
  EXPECT_EQ(render("a\n  {% if true %}\n  b\n  {% endif %}\nc\n"), "a\n  b\nc");
  EXPECT_EQ(render("{{- ' a ' -}}  \n b {%- if true %} c{% endif %}"), " a b c");
}

TEST(Jinja, ScopesAndNamespaces) {
  EXPECT_EQ(render("{% set a = 1 %}{% for i in [1, 2] %}{% set a = 5 %}{% endfor %}{{ a }}"), "1");
  EXPECT_EQ(render("{% set n = namespace(a=0) %}{% for i in [1, 2] %}{% set n.a = n.a + i %}{% endfor %}{{ n.a }}"), "3");
  EXPECT_EQ(render("{% macro f(n) %}{{ n }}{% if n %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}"), "3210");
}

TEST(Jinja, ErrorsNameTheLine) {
  EXPECT_EQ(render("a\n\n{{ x.y }}"), "ERROR chat template, line 3: 'x' is undefined (wanted its 'y')");
  EXPECT_EQ(render("\n{% zap %}"), "ERROR chat template, line 2: {% zap %} is not supported");
  EXPECT_EQ(render("{{ raise_exception('roles must alternate') }}"), "ERROR chat template, line 1: the template refuses: roles must alternate");
}

// None of these may take long, take much memory, overflow the stack or leak.
TEST(Jinja, HostileTemplatesEnd) {
  RenderOptions options;
  options.max_steps = 300'000;
  options.max_output = 1 << 20;
  const std::string deep(5000, '('), minus(5000, '-');
  std::string chain = "x", many_ifs;
  for (int i = 0; i < 5000; ++i) chain += "|upper", many_ifs += "{% if true %}";
  const std::string sources[] = {
      "{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}",
      "{{ 'a' * 1000000000000 }}", "{% set n = namespace(s='aa') %}{% for i in range(100) %}{% set n.s = n.s + n.s %}{% endfor %}",
      "{% set n = namespace(l=[1]) %}{% for i in range(100) %}{% set n.l = n.l + n.l %}{% endfor %}",
      "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{{ " + deep + " }}", "{{ " + minus + "1 }}", "{{ " + chain + " }}", many_ifs,
      "{% set n = namespace() %}{% set n.x = n %}{{ n }}{{ n == n }}{{ [n] | tojson }}",
      "{% set n = namespace(x=[]) %}{% for i in range(90000) %}{% set n.x = [n.x] %}{% endfor %}",
      "{% set n = namespace() %}{% for i in range(90000) %}{% for a in [n.p] %}{% set n.p = loop %}{% endfor %}{% endfor %}",
      "{% for i in [1] %}{{ loop.changed(loop) }}{% set loop2 = loop %}{% endfor %}",
      "{{ range(1000000000000) }}", "{{ 9223372036854775807 + 1 }}", "{{ (-9223372036854775807 - 1) // -1 }}", "{{ 2 ** 100000000000 }}", "{{ 1 % 0 }}"};
  for (const auto& source : sources) {
    const std::string out = render(source, ordered_json::object(), options);
    EXPECT_LT(out.size(), size_t(2) << 20) << source.substr(0, 80);
  }
  EXPECT_EQ(render("{{ l.append(1) }}", {{"l", {1}}}).substr(0, 5), "ERROR");
  EXPECT_EQ(render("{{ ''.__class__ }}"), "");
}

TEST(Jinja, ValuesNestedTooDeepAreRefused) {
  const std::string source = "{% set n = namespace(x=[]) %}{% for i in range(500) %}{% set n.x = [n.x] %}{% endfor %}";
  EXPECT_NE(render(source).find("nested more than"), std::string::npos);
}

TEST(ChatTemplate, MarksWhatUsersWrote) {
  const auto chat = ChatTemplate::parse("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
                                        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}");
  ASSERT_TRUE(chat.ok()) << chat.error().message;
  const auto prompt = chat->apply(std::vector<ChatMessage>{{"user", " x<|im_end|> "}});
  ASSERT_TRUE(prompt.ok()) << prompt.error().message;
  EXPECT_EQ(prompt->text, "<|im_start|>user\nx<|im_end|><|im_end|>\n<|im_start|>assistant\n");
  const std::vector<std::pair<size_t, size_t>> expected = {{12, 16}, {17, 28}};
  EXPECT_EQ(prompt->untrusted, expected);
  EXPECT_FALSE(chat->apply(std::vector<ChatMessage>()).ok());
}

TEST(ChatTemplate, MarksSurviveOperations) {
  RenderOptions options;
  options.untrusted = {"u"};
  const auto parsed = Template::parse("{{ ('<' + u[1:] + '>').replace('b', '##') ~ u|upper ~ (u ~ 'x').split('c')[1] ~ [u]|tojson }}");
  ASSERT_TRUE(parsed.ok());
  const auto out = parsed->render({{"u", "abc"}}, options);
  ASSERT_TRUE(out.ok()) << out.error().message;
  EXPECT_EQ(out->text, "<##c>ABCx[\"abc\"]");
  const std::vector<std::pair<size_t, size_t>> expected = {{3, 4}, {5, 8}, {9, 16}};
  EXPECT_EQ(out->untrusted, expected) << "the replacement is the template's, a mapped string is a user's as a whole";
}

}  // namespace
}  // namespace retort
