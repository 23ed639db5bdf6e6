#include "eval/tasks/dataset.h"

#include <gtest/gtest.h>

namespace retort::harness {
namespace {

Task task_of(const std::string& name) { return find_tasks({name})->front(); }

// The document of a row, or the error's text.
std::string read(const std::string& task, const std::string& row) {
  auto rows = read_rows(row, "f.jsonl");
  if (!rows.ok()) return rows.error().message;
  const auto document = task_of(task).read(rows->front());
  if (!document.ok()) return document.error().message;
  std::string out;
  for (const Request& request : document->requests) out += request.context + "|" + request.continuation + "\n";
  return out + cat(document->gold);
}

TEST(Formats, PromptsAreTheHarnesses) {
  EXPECT_EQ(read("arc_easy", R"({"question":"Why?","choices":{"text":["a","b"],"label":["1","2"]},"answerKey":"2"})"),
            "Question: Why?\nAnswer:| a\nQuestion: Why?\nAnswer:| b\n1");
  EXPECT_EQ(read("hellaswag", R"({"activity_label":"Run","ctx_a":"[header] A [title] b","ctx_b":"she SAYS  so","endings":["x [step] y","z [a\nb]"],"label":"0"})"),
            "Run: A. b She says so| x y\nRun: A. b She says so| z [a\nb]\n0");
  EXPECT_EQ(read("winogrande", R"({"sentence":"Ann saw Bea as _ ran. ","option1":"Ann","option2":"Bea","answer":"2"})"),
            "Ann saw Bea as Ann| ran.\nAnn saw Bea as Bea| ran.\n1");
  EXPECT_EQ(read("lambada_openai", R"({"text":"one two  three"})"), "one two | three\n0");
  EXPECT_EQ(read("lambada_openai", R"({"text":"one"})"), "| one\n0");
  EXPECT_EQ(read("race", R"({"article":"T.","problems":"[{'question': 'A  _  .', 'answer': 'B', 'options': ['p', 'q', 'r', 's']}, {'question': \"B?\", 'answer': 'A', 'options': ['1', '2', '3', '4']}, {'question': 'C?', 'answer': 'D', 'options': ['w', 'x', 'y', 'z']}]"})"),
            "Article: T.\n\nA q\nQuestion: B?\nAnswer: 1\nC?| w\nArticle: T.\n\nA q\nQuestion: B?\nAnswer: 1\nC?| x\n"
            "Article: T.\n\nA q\nQuestion: B?\nAnswer: 1\nC?| y\nArticle: T.\n\nA q\nQuestion: B?\nAnswer: 1\nC?| z\n3");
}

TEST(Formats, WrongRowsSayFileLineAndKey) {
  const std::pair<const char*, const char*> cases[] = {
      {"arc_easy", R"({"question":1})"},
      {"arc_easy", R"({"question":"q","choices":{"text":["a"],"label":["A","B"]},"answerKey":"A"})"},
      {"arc_easy", R"({"question":"q","choices":{"text":["a"],"label":["A"]},"answerKey":"Z"})"},
      {"hellaswag", R"({"activity_label":"a","ctx_a":"b","ctx_b":"c","endings":[],"label":"0"})"},
      {"hellaswag", R"({"activity_label":"a","ctx_a":"b","ctx_b":"c","endings":["e"],"label":"1"})"},
      {"hellaswag", R"({"activity_label":"a","ctx_a":"b","ctx_b":"c","endings":["e"],"label":""})"},
      {"mmlu_anatomy", R"({"question":"q","choices":["1","2"],"answer":0})"},
      {"mmlu_anatomy", R"({"question":"q","choices":["1","2","3","4"],"answer":-1})"},
      {"openbookqa", R"({"question_stem":"q","choices":[],"answerKey":"A"})"},
      {"piqa", R"({"goal":"g","sol1":"a","sol2":"b","label":2})"},
      {"pubmedqa", R"({"QUESTION":"q","CONTEXTS":["c"],"final_decision":"perhaps"})"},
      {"race", R"({"article":"a","problems":"[]"})"},
      {"race", R"({"article":"a","problems":"[{'question': 'q', 'answer': 'E', 'options': ['1', '2', '3', '4']}]"})"},
      {"race", R"({"article":"a","problems":"[{'question': 'q', 'answer': 'A', 'options': ['1']}]"})"},
      {"truthfulqa_mc1", R"({"question":"q","mc1_targets":{"choices":["a"],"labels":[1,0]}})"},
      {"truthfulqa_mc2", R"({"question":"q","mc2_targets":{"choices":[],"labels":[]}})"},
      {"winogrande", R"({"sentence":"no blank","option1":"a","option2":"b","answer":"1"})"},
      {"winogrande", R"({"sentence":"a _","option1":"a","option2":"b","answer":"3"})"},
      {"wikitext", R"({"text":"t"})"},
  };
  for (const auto& [task, row] : cases) {
    const std::string message = read(task, row);
    EXPECT_TRUE(message.starts_with("f.jsonl:1")) << task << ": " << message;
  }
}

TEST(Dataset, BrokenFilesSayTheLine) {
  const auto message = [](const std::string& content) {
    const auto rows = read_rows(content, "f.jsonl");
    return rows.ok() ? "fine" : rows.error().message;
  };
  EXPECT_EQ(message("{}\n\n{}\n"), "fine");
  EXPECT_EQ(message("{}\n{\n"), "f.jsonl:2: not a JSON object");
  EXPECT_EQ(message("{}\n\n[1]"), "f.jsonl:3: not a JSON object");
  EXPECT_EQ(message("{\"a\":\"\xff\"}"), "f.jsonl:1: not valid UTF-8 at byte 6");
  EXPECT_EQ(message(""), "f.jsonl: empty: there is no row in it");
  EXPECT_EQ(message("{\"a\":" + std::string(100000, '[')), "f.jsonl:1: JSON nested deeper than 32 levels");
  EXPECT_EQ(message("{\"a\":\"\\ud800\"}"), "f.jsonl:1: not a JSON object");
}

TEST(Dataset, AMissingFileSaysWhatIsExpectedWhere) {
  DataFolder data("nowhere");
  const auto found = data.documents(task_of("arc_easy"), "train");
  ASSERT_FALSE(found.ok());
  EXPECT_EQ(found.error().message, "arc_easy: no nowhere/arc_easy_train.jsonl (or .jsonl.gz, .jsonl.zst): the train split of "
                                   "allenai/ai2_arc ARC-Easy on the Hugging Face hub, a JSON object a line");
}

TEST(TaskList, NamesAreFoundOnceAndUnknownOnesAreErrors) {
  EXPECT_EQ(find_tasks({"mmlu"})->size(), 57u);
  EXPECT_EQ(find_tasks({"mmlu_anatomy", "mmlu", "mmlu_virology"})->size(), 57u);
  EXPECT_EQ(find_tasks({"mmlu_anatomy", "mmlu"})->front().group, "mmlu_stem");
  EXPECT_EQ(groups_of(*find_tasks({"mmlu_anatomy"})).size(), 0u);
  EXPECT_EQ(groups_of(*find_tasks({"arc_easy"})).size(), 0u);
  EXPECT_EQ(groups_of(*find_tasks({"mmlu"})).size(), 5u);
  EXPECT_FALSE(find_tasks({"hellaswagg"}).ok());
  EXPECT_NE(find_tasks({"hellaswagg"}).error().message.find("did you mean 'hellaswag'"), std::string::npos);
  for (const auto& task : task_names()) EXPECT_TRUE(find_tasks({task.name}).ok()) << task.name;
}

}  // namespace
}  // namespace retort::harness
