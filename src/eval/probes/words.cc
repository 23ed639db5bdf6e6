// Words that the tasks are written with, and the text they fall back on. All are ordinary, so that a tokenizer has short names for them.
#include <array>

#include "eval/probes/source.h"

namespace retort::probes {
namespace {

constexpr std::array kFirstNames = {
    "Aaron",  "Alice",  "Amanda", "Andrew", "Anna",   "Arthur", "Barbara", "Brian",  "Carl",   "Carol",   "Charles", "Claire", "Daniel",
    "David",  "Diana",  "Donald", "Edward", "Elaine", "Emily",  "Eric",    "Fiona",  "Frank",  "George",  "Gloria",  "Grace",  "Harold",
    "Helen",  "Henry",  "Irene",  "Jack",   "James",  "Janet",  "Jason",   "Joan",   "John",   "Julia",   "Karen",   "Keith",  "Laura",
    "Linda",  "Louis",  "Lucy",   "Margaret", "Martin", "Mary", "Michael", "Nancy",  "Neil",   "Oliver",  "Oscar",   "Patrick", "Paul",
    "Peter",  "Rachel", "Robert", "Rose",   "Samuel", "Sarah",  "Simon",   "Susan",  "Thomas", "Victor",  "Walter",  "William"};
constexpr std::array kLastNames = {
    "Adams",   "Allen",   "Anderson", "Baker",  "Barnes",  "Bell",    "Bennett", "Brooks",  "Brown",   "Campbell", "Carter",  "Clark",  "Collins",
    "Cook",    "Cooper",  "Davis",    "Edwards", "Evans",  "Fisher",  "Foster",  "Garcia",  "Gray",    "Green",    "Hall",    "Harris", "Hill",
    "Howard",  "Hughes",  "Jackson",  "Johnson", "Jones",  "Kelly",   "King",    "Lee",     "Lewis",   "Long",     "Martinez", "Miller", "Mitchell",
    "Moore",   "Morgan",  "Morris",   "Murphy", "Nelson",  "Parker",  "Perry",   "Phillips", "Price",  "Reed",     "Roberts", "Rogers", "Ross",
    "Russell", "Scott",   "Smith",    "Stewart", "Taylor", "Turner",  "Walker",  "Ward",    "Watson",  "Wilson",   "Wood",    "Young"};
constexpr std::array kAdjectives = {
    "amber", "ancient", "bitter", "blue",  "brave",  "bright", "broad",  "calm",   "clever", "cold",   "copper", "curious", "dark",  "deep",
    "distant", "dusty", "early",  "eager", "empty",  "faint",  "fair",   "fast",   "fierce", "gentle", "golden", "grand",   "green", "heavy",
    "hidden", "hollow", "honest", "idle",  "late",   "lively", "long",   "loud",   "lucky",  "mild",   "modern", "narrow",  "noble", "old",
    "pale",  "patient", "plain",  "proud", "quick",  "quiet",  "rapid",  "red",    "rough",  "round",  "secret", "sharp",   "silent", "silver",
    "simple", "slow",   "small",  "smooth", "soft",  "steady", "strange", "warm"};
constexpr std::array kNouns = {
    "anchor", "apple",  "arrow",  "basket", "bell",   "boat",   "bottle", "bridge", "brook",  "candle", "castle", "chair",  "cloud",  "coat",
    "corner", "cottage", "desk",  "door",   "engine", "farm",   "feather", "fence", "field",  "forest", "garden", "gate",   "hammer", "harbor",
    "hill",   "horse",  "island", "jacket", "kettle", "ladder", "lake",   "lamp",   "letter", "map",    "market", "meadow", "mirror", "mountain",
    "needle", "orchard", "paper", "pencil", "piano",  "planet", "pocket", "river",  "road",   "rope",   "school", "shadow", "ship",   "spoon",
    "stone",  "table",  "tower",  "train",  "valley", "village", "wagon", "window"};
constexpr std::array kVerbs = {"passed", "watched", "painted", "crossed", "repaired", "remembered", "followed", "carried",
                               "found",  "kept",    "described", "left",  "measured", "visited",    "counted",  "moved"};
constexpr std::array kPlaces = {"near", "behind", "beside", "above", "below", "inside", "beyond", "opposite"};
constexpr std::array kTimes = {"In the morning", "After the rain", "Before noon", "Late in the year", "For a while", "Once more",
                               "At the end of the week", "In those days", "Without a word", "Much later"};

template <class List>
std::string one_of(Random& random, const List& list) {
  return list[size_t(below(random, int64_t(list.size())))];
}

}  // namespace

std::span<const char* const> first_names() { return kFirstNames; }
std::span<const char* const> last_names() { return kLastNames; }
std::span<const char* const> adjectives() { return kAdjectives; }
std::span<const char* const> nouns() { return kNouns; }

std::string made_up_text(int64_t sentences) {
  Random random(1);  // one text for every seed: it is only straw
  std::string out;
  for (int64_t i = 0; i < sentences; ++i) {
    const auto thing = [&] { return cat("the ", one_of(random, kAdjectives), " ", one_of(random, kNouns)); };
    const std::string first = one_of(random, kFirstNames), verb = one_of(random, kVerbs), place = one_of(random, kPlaces);
    const std::string when = below(random, 2) ? one_of(random, kTimes) + ", " : "";
    out += cat(when, first, " ", verb, " ", thing(), " ", place, " ", thing(), ". ");
  }
  return out;
}

}  // namespace retort::probes
