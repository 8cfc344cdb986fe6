// The values of a manifest whose checksum has been compared.
#pragma once

#include <string>

#include "exportloss/manifest.hpp"

namespace exportloss {

/// Returns a manifest from the values of its JSON; `path` is for messages. Throws Error: it is of
/// another kind, newer, or a value is of another type or out of range.
Manifest manifest_of(const Json& values, const std::string& path);

}  // namespace exportloss
