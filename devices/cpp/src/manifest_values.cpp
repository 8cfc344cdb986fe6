#include "manifest_values.hpp"

#include <cmath>
#include <initializer_list>
#include <set>
#include <string_view>

#include "exportloss/error.hpp"
#include "exportloss/file_format.hpp"
#include "exportloss/limits.hpp"
#include "loss_options.hpp"
#include "printable.hpp"

namespace exportloss {
namespace {

using Words = std::initializer_list<std::string_view>;

constexpr std::size_t longest_name = 200;  // characters of a class name

// A value of one of several words. In a manifest that matches its checksum, any other is newer.
// Without the key it is the first of them.
std::string word(const Json& values, std::string_view key, Words known, const std::string& path) {
  const Json* given = values.find(key);
  const std::string found = given == nullptr ? std::string(*known.begin()) : given->string();
  std::string all;
  for (const std::string_view one : known) {
    if (found == one) return found;
    all += text(all.empty() ? "" : ", ", one);
  }
  refuse_newer(path, text(key, ' ', excerpt(found)), all);
}

std::string required_word(const Json& values, std::string_view key, Words known,
                          const std::string& path) {
  values.at(key);
  return word(values, key, known, path);
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

bool flag(const Json& values, std::string_view key) {
  const Json* given = values.find(key);
  return given != nullptr && given->boolean();
}

// Keys that this runtime does not need, and that every manifest has nevertheless.
void check_unused(const Json& values, const std::string& path) {
  check_loss(values.at("loss"), path);
  word(values, "head", {"dense", "sparse"}, path);
  word(values, "loss_layout", {"permuted", "head-output", "head-input"}, path);
  word(values, "provider", {"any", "cpu", "openvino", "gpu"}, path);
  flag(values, "gradients");
  values.at("versions").object();
  const Json* tiers = values.find("tiers");
  if (tiers == nullptr) return;
  std::int64_t below = 0;
  const std::int64_t most = values.at("max_targets").whole();
  for (const Json& rows : tiers->array()) {
    if (rows.whole() <= below || rows.whole() >= most) {
      throw Error("tiers do not ascend from 1 to below max_targets");
    }
    below = rows.whole();
  }
}

// The layout has exactly the tensors that are trained.
void check_covered(const FlatLayout& layout, const std::set<std::string>& names) {
  for (const PlacedTensor& tensor : layout.tensors) {
    if (names.count(tensor.name) == 0) {
      throw Error(text("its layout has ", excerpt(tensor.name), ", which is not trained"));
    }
  }
  if (layout.tensors.size() != names.size()) {
    throw Error(text("its layout has ", layout.tensors.size(), " tensors, which are not the ",
                     names.size(), " trained ones"));
  }
}

void check_trained(const Json& values, const Manifest& manifest, const std::string& path) {
  std::set<std::string> parameters, statistics;
  for (const auto& [group, names] : values.at("groups").object()) {
    if (group != "weights" && group != "norms" && group != "biases") {
      refuse_newer(path, text("groups key ", excerpt(group)), "biases, norms, weights");
    }
    for (const Json& name : names.array()) parameters.insert(name.string());
  }
  for (const Json& norm : values.at("statistics").array()) {
    statistics.insert({norm.at("mean").string(), norm.at("var").string()});
    norm.at("count").whole();
    norm.at("momentum").number();
  }
  check_covered(manifest.parameters, parameters);
  check_covered(manifest.statistics, statistics);
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
    throw Error(
        text(path, " describes ", trains ? "training artifacts" : "the loss alone", " (kind ",
             excerpt(kind), "); expected a portable step, kind 'train-step': export with ",
             "`exportloss export --format step`"),
        Reason::foreign);
  }
  refuse_newer(path, text("kind ", excerpt(kind)), "train-step");
}

void check_class_name(const std::string& name) {
  if (!is_printable(name, longest_name)) throw Error(text("a class name is ", excerpt(name)));
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

}  // namespace

Manifest manifest_of(const Json& values, const std::string& path) {
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
    throw Error(
        text(manifest.strides.size(), " strides for anchors of ", levels.size(), " levels"));
  }
  const Json::Array& size = values.at("image_size").array();
  if (size.size() != 2) throw Error("image_size is not a height and a width");
  manifest.image_size = {within("image_size", size[0].whole(), limits::image_side),
                         within("image_size", size[1].whole(), limits::image_side)};
  manifest.batch_size = within("batch_size", values.at("batch_size").whole(), limits::rows);
  manifest.max_targets = within("max_targets", values.at("max_targets").whole(), limits::rows);
  within("the number of names", manifest.num_classes(), limits::classes);
  manifest.optimizer =
      required_word(values, "optimizer", {"sgd", "adam", "adamw", "rmsprop"}, path);
  manifest.precision = word(values, "precision", {"float32", "float16", "bfloat16"}, path);
  check_unused(values, path);
  manifest.ema = flag(values, "ema");
  manifest.opset = values.at("opset").whole();
  const Json& layout = values.at("layout");
  manifest.parameters = read_layout(layout.at("parameters"));
  manifest.statistics = read_layout(layout.at("statistics"));
  for (const Json& name : layout.at("memories").array()) {
    manifest.optimizer_state.push_back(name.string());
  }
  check_layout(manifest);
  check_trained(values, manifest, path);
  manifest.files = read_files(values.at("files"));
  return manifest;
}

}  // namespace exportloss
