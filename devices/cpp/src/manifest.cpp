#include "exportloss/manifest.hpp"

#include <set>
#include <string_view>

#include "exportloss/error.hpp"
#include "exportloss/file_format.hpp"
#include "exportloss/files.hpp"
#include "exportloss/limits.hpp"
#include "exportloss/sha256.hpp"
#include "manifest_values.hpp"

namespace exportloss {
namespace {

constexpr std::string_view family = "exportloss";
constexpr int newest = 2;

// The checksum is over the manifest with an empty text where the checksum stands.
bool is_whole(std::string_view content, const std::string& digest) {
  const std::size_t place = content.find(digest);
  if (digest.size() != 64 || place == content.npos) return false;
  Sha256 hash;
  hash.update(ByteView(content.substr(0, place)));
  hash.update(ByteView(content.substr(place + digest.size())));
  return hash.hex() == digest;
}

Json parse_json(ByteView content, const std::string& path) {
  try {
    return Json::parse(content.text());
  } catch (const Error& error) {
    throw Error(text(path, " is not readable: ", error.what(), "; export again"),
                Reason::unreadable);
  }
}

const std::string& string_or_empty(const Json& values, std::string_view key) {
  static const std::string empty;
  const Json* found = values.is_object() ? values.find(key) : nullptr;
  return found != nullptr && found->is_string() ? found->string() : empty;
}

std::int64_t size_of(const Json& side) {
  if (side.whole() < 1) throw Error(text("its layout has a size of ", side.whole()));
  return side.whole();
}

}  // namespace

FlatLayout read_layout(const Json& values) {
  FlatLayout layout;
  std::set<std::string> names;
  if (values.array().size() > limits::tensors) throw Error("its layout has too many tensors");
  for (const Json& entry : values.array()) {
    PlacedTensor tensor;
    tensor.name = entry.at("name").string();
    if (!names.insert(tensor.name).second)
      throw Error(text(excerpt(tensor.name), " has two places"));
    for (const Json& side : entry.at("shape").array()) {
      tensor.shape.push_back(size_of(side));
    }
    if (tensor.shape.size() > limits::dimensions) throw Error("a tensor has too many dimensions");
    tensor.size = elements(tensor.shape);
    tensor.offset = layout.size;
    if (entry.at("offset").whole() != static_cast<std::int64_t>(layout.size)) {
      throw Error(text(excerpt(tensor.name), " begins at ", entry.at("offset").whole(),
                       ", expected ", layout.size));
    }
    layout.size = elements({static_cast<std::int64_t>(layout.size + tensor.size)});
    layout.tensors.push_back(std::move(tensor));
  }
  return layout;
}

std::size_t elements(const Shape& shape) {
  constexpr std::uint64_t most = std::uint64_t{1} << 48;
  std::uint64_t count = 1;
  for (const std::int64_t side : shape) {
    if (side < 0) throw Error(text("a size is ", side));
    const auto next = static_cast<std::uint64_t>(side);
    if (next != 0 && count > most / next) throw Error("a tensor has too many elements");
    count *= next;
  }
  return static_cast<std::size_t>(count);
}

Manifest parse_manifest(ByteView content, const std::string& path) {
  try {
    const Json values = parse_json(content, path);
    const std::string& found = string_or_empty(values, "format");
    const auto number = format_number(family, found);
    if (!number || *number < newest) {
      throw Error(text(path, " has format ", excerpt(found), "; this runtime opens '", family, '/',
                       newest, "': export again"),
                  Reason::foreign);
    }
    const bool has_checksum = *number == newest || !string_or_empty(values, "sha256").empty();
    if (has_checksum && !is_whole(content.text(), string_or_empty(values, "sha256"))) {
      throw Error(text(path, " is damaged or was edited: its content does not match its sha256; ",
                       "copy the folder again, or export again"),
                  Reason::damaged);
    }
    if (*number > newest) {
      refuse_newer(path, text("format ", *number), text("up to ", newest));
    }
    return manifest_of(values, path);
  } catch (const Error& error) {
    if (error.reason() != Reason::other) throw;
    throw Error(text(path, " is damaged: ", error.what(), "; export again"), Reason::damaged);
  }
}

Manifest read_manifest(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "manifest.json";
  if (is_absent(path)) {
    throw Error(text(name_of(folder), " is not an artifacts folder: it has no manifest.json; make ",
                     "one with `exportloss export`"),
                Reason::missing);
  }
  return parse_manifest(read_bounded(path, limits::manifest_bytes), name_of(path));
}

}  // namespace exportloss
