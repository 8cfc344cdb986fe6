#include "exportloss/manifest.hpp"

#include <cmath>
#include <initializer_list>
#include <set>
#include <string_view>

#include "exportloss/error.hpp"
#include "exportloss/file_format.hpp"
#include "exportloss/files.hpp"
#include "exportloss/json.hpp"
#include "exportloss/limits.hpp"
#include "exportloss/sha256.hpp"
#include "loss_options.hpp"
#include "utf8.hpp"

namespace exportloss {
namespace {

using Words = std::initializer_list<std::string_view>;

constexpr std::string_view family = "exportloss";
constexpr int newest = 2;
constexpr std::size_t longest_name = 200;  // characters of a class name

// A value of one of several words. In a manifest that matches its checksum, any other is newer.
std::string word(const Json& values, std::string_view key, Words known, const std::string& path) {
  const std::string& found = values.at(key).string();
  std::string all;
  for (const std::string_view one : known) {
    if (found == one) return found;
    all += text(all.empty() ? "" : ", ", one);
  }
  refuse_newer(path, text(key, ' ', excerpt(found)), all);
}

std::int64_t within(std::string_view name, std::int64_t value, std::int64_t most) {
  if (value < 1 || value > most) throw Error(text(name, " is ", value, ", expected 1 to ", most));
  return value;
}

double pixels(const Json& value) {
  const double size = value.number();
  if (!(std::isfinite(size) && size > 0)) {
    throw Error("an anchor or stride is not a finite number of pixels above 0");
  }
  return size;
}

// Keys that this runtime does not need, and that every manifest has nevertheless.
void check_unused(const Json& values, const std::string& path) {
  check_loss(values.at("loss"), path);
  for (const auto& [group, names] : values.at("groups").object()) {
    if (group != "weights" && group != "norms" && group != "biases") {
      refuse_newer(path, text("groups key ", excerpt(group)), "biases, norms, weights");
    }
    for (const Json& name : names.array()) name.string();
  }
  for (const Json& norm : values.at("statistics").array()) {
    norm.at("mean").string();
    norm.at("var").string();
    norm.at("count").whole();
    norm.at("momentum").number();
  }
  values.at("opset").whole();
  values.at("versions").object();
  values.at("gradients").boolean();
  std::int64_t below = 0;
  const std::int64_t most = values.at("max_targets").whole();
  for (const Json& rows : values.at("tiers").array()) {
    if (rows.whole() <= below || rows.whole() >= most) {
      throw Error("tiers do not ascend from 1 to below max_targets");
    }
    below = rows.whole();
  }
}

std::map<std::string, FileEntry> read_files(const Json& values) {
  std::map<std::string, FileEntry> files;
  for (const auto& [name, entry] : values.object()) {
    files[name] = {entry.at("sha256").string(), entry.at("size").whole()};
  }
  return files;
}

void check_kind(const std::string& kind, const std::string& path) {
  if (kind == "train-step") return;
  if (kind == "ort-training" || kind == "loss") {
    const bool trains = kind == "ort-training";
    throw Error(text(path, " describes ", trains ? "training artifacts" : "the loss alone", " (kind ",
                     excerpt(kind), "); expected a portable step, kind 'train-step': export with ",
                     "`exportloss export --format step`"),
                Reason::foreign);
  }
  refuse_newer(path, text("kind ", excerpt(kind)), "train-step");
}

// Names are printed and drawn: no control characters, and not without end.
void check_class_name(const std::string& name) {
  std::size_t characters = 0;
  for (std::size_t at = 0; at < name.size(); ++characters) {
    const std::uint32_t code = next_code(name, at);
    const bool is_control = code < 0x20 || (code >= 0x7f && code < 0xa0);
    if (is_control || characters == longest_name) {
      throw Error(text("a class name is ", excerpt(name)));
    }
  }
}

std::vector<std::string> state_names(const std::string& optimizer) {
  if (optimizer == "sgd") return {"momentum"};
  if (optimizer == "rmsprop") return {"square_avg", "momentum"};
  return {"exp_avg", "exp_avg_sq"};
}

void check_layout(const Manifest& manifest) {
  if (manifest.parameters.tensors.empty()) throw Error("its layout has no parameters");
  if (manifest.optimizer_state != state_names(manifest.optimizer)) {
    throw Error(text(manifest.optimizer, " does not keep the optimizer state in its layout"));
  }
}

Manifest from_values(const Json& values, const std::string& path) {
  check_kind(values.at("kind").string(), path);
  Manifest manifest;
  manifest.model = values.at("model").string();
  for (const Json& name : values.at("names").array()) manifest.names.push_back(name.string());
  for (const std::string& name : manifest.names) check_class_name(name);
  for (const Json& stride : values.at("strides").array()) {
    manifest.strides.push_back(pixels(stride));
  }
  const Json::Array& levels = values.at("anchors").array();
  for (const Json& level : levels) {
    for (const Json& anchor : level.array()) {
      if (anchor.array().size() != 2) throw Error("an anchor is not a width and a height");
      for (const Json& side : anchor.array()) pixels(side);
    }
  }
  if (levels.size() != manifest.strides.size() || levels.empty()) {
    throw Error(text(manifest.strides.size(), " strides for anchors of ", levels.size(), " levels"));
  }
  const Json::Array& size = values.at("image_size").array();
  if (size.size() != 2) throw Error("image_size is not a height and a width");
  manifest.image_size = {within("image_size", size[0].whole(), limits::image_side),
                         within("image_size", size[1].whole(), limits::image_side)};
  manifest.batch_size = within("batch_size", values.at("batch_size").whole(), limits::rows);
  manifest.max_targets = within("max_targets", values.at("max_targets").whole(), limits::rows);
  within("the number of names", manifest.num_classes(), limits::classes);
  manifest.optimizer =
      word(values, "optimizer", {"sgd", "adam", "adamw", "rmsprop"}, path);
  manifest.precision = word(values, "precision", {"float32", "float16", "bfloat16"}, path);
  word(values, "head", {"dense", "sparse"}, path);
  word(values, "loss_layout", {"permuted", "head-output", "head-input"}, path);
  word(values, "provider", {"any", "cpu", "gpu"}, path);
  check_unused(values, path);
  manifest.ema = values.at("ema").boolean();
  const Json& layout = values.at("layout");
  manifest.parameters = read_layout(layout.at("parameters"));
  manifest.statistics = read_layout(layout.at("statistics"));
  for (const Json& name : layout.at("memories").array()) {
    manifest.optimizer_state.push_back(name.string());
  }
  check_layout(manifest);
  manifest.files = read_files(values.at("files"));
  return manifest;
}

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

}  // namespace

FlatLayout read_layout(const Json& values) {
  FlatLayout layout;
  std::set<std::string> names;
  if (values.array().size() > limits::tensors) throw Error("its layout has too many tensors");
  for (const Json& entry : values.array()) {
    PlacedTensor tensor;
    tensor.name = entry.at("name").string();
    if (!names.insert(tensor.name).second) throw Error(text(excerpt(tensor.name), " has two places"));
    for (const Json& side : entry.at("shape").array()) {
      tensor.shape.push_back(within("a size of the layout", side.whole(), std::int64_t{1} << 40));
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
    const bool has_checksum =
        *number == newest || !string_or_empty(values, "sha256").empty();
    if (has_checksum && !is_whole(content.text(), string_or_empty(values, "sha256"))) {
      throw Error(text(path, " is damaged or was edited: its content does not match its sha256; ",
                       "copy the folder again, or export again"),
                  Reason::damaged);
    }
    if (*number > newest) {
      refuse_newer(path, text("format ", *number), text("up to ", newest));
    }
    return from_values(values, path);
  } catch (const Error& error) {
    if (error.reason() != Reason::other) throw;
    throw Error(text(path, " is damaged: ", error.what(), "; export again"), Reason::damaged);
  }
}

Manifest read_manifest(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "manifest.json";
  if (!std::filesystem::exists(path)) {
    throw Error(text(name_of(folder), " is not an artifacts folder: it has no manifest.json; make ",
                     "one with `exportloss export`"),
                Reason::missing);
  }
  return parse_manifest(read_bounded(path, limits::manifest_bytes), name_of(path));
}

}  // namespace exportloss
