// What a recipe's student is made of before there are any weights: its plan, its tensors, and which of them the stages train.
//
// Layer: train, torch-free. Pure functions.
#pragma once

#include <string>

#include "base/error.h"
#include "model/config.h"
#include "train/recipe.h"

namespace retort::train {

// The student with the recipe's mixers in every layer, before any attention is kept: the default's part first, then one for every entry of
// student.layers that names heads of the layer. Which heads stay attention is only known after measuring.
Result<ModelConfig> pure_student(const ModelConfig& teacher, const StudentSpec& student);

// Whether the losses of the stage depend on the tensor. Layer-wise ones: on a layer's mixers and the norm before them, and on its MLP where
// a loss is taken after it.
bool reaches(const StageSpec& stage, const std::string& tensor);

// Every stage trains something of this student, and every glob of every stage is the name of something.
Status check_trained(const Recipe& recipe, const ModelConfig& student);

}  // namespace retort::train
