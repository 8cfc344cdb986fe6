// The options of the loss in a manifest, which the graphs were made with.
#pragma once

#include <string>

#include "exportloss/json.hpp"

namespace exportloss {

/// Checks that options of the loss are ones that some version writes; `path` is the manifest's.
/// Throws Error: an option is unknown, of another type, or out of range.
void check_loss(const Json& values, const std::string& path);

}  // namespace exportloss
