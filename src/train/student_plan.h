// What a recipe's student is made of before there are any weights: its plan, its tensors, and which of them the stages train.
//
// Layer: train, torch-free. Nothing is changed; a draft's sizes are read from its folder.
#pragma once

#include <string>

#include "base/error.h"
#include "model/config.h"
#include "train/recipe.h"

namespace retort::train {

// A student that starts from a folder of another depth than the teacher's is a draft: whole layers of a model (retort shrink), whose body is
// its own too. Only end-to-end losses can train it. Of a draft what its folder says, of other students the teacher: the sizes that the
// recipe's mixers are put into. Everything but the depth must be the teacher's.
Result<ModelConfig> student_sizes(const ModelConfig& teacher, const StudentSpec& student);

// The student with the recipe's mixers in every layer, before any attention is kept: the default's part first, then one for every entry of
// student.layers that names heads of the layer. Which heads stay attention is only known after measuring.
Result<ModelConfig> pure_student(const ModelConfig& teacher, const StudentSpec& student);

// What the recipe keeps exists in this teacher.
Status check_keep(const KeepSpec& keep, const ModelConfig& teacher);

// Whether which attention stays takes measuring.
bool is_measured(const KeepSpec& keep);
// What a layout keeps that takes none: (layer, kv head), kv head -1 for a whole layer.
std::vector<std::pair<int, int>> listed_attention(const KeepSpec& keep, int layers);
// The pure student with attention for these heads, beside what is attention in it already; its mixers have the others.
Result<ModelConfig> hybrid_student(ModelConfig pure, const std::vector<std::pair<int, int>>& kept);

Error trains_nothing(const StageSpec& stage, const ModelConfig& student);
// Every stage trains something of this student, and every glob of every stage is the name of something.
Status check_trained(const Recipe& recipe, const ModelConfig& student);

// What can be wrong with a pure student before anything is measured: stages that a draft, which has no layers beside the teacher's, cannot
// have; losses that do not exist for it; and, unless attention is kept, which takes measuring, stages that train nothing.
Status check_student(const Recipe& recipe, const ModelConfig& teacher, const ModelConfig& student);
// Every loss of every stage exists for this student: mixers have the matrices that losses compare, and gaps fit its layers.
Status check_losses(const Recipe& recipe, const ModelConfig& student);

}  // namespace retort::train
