// Numbered file formats, such as `exportloss-state/2`.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace exportloss {

/// Returns the number of a format of a family; nothing for any other text.
std::optional<int> format_number(std::string_view family, std::string_view found);

/// Throws Error: an undamaged file holds something that this version does not know.
[[noreturn]] void refuse_newer(const std::string& path, const std::string& found,
                               const std::string& known);

}  // namespace exportloss
