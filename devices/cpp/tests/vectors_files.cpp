// The vectors of files: states, manifests, folders, layouts and detectors.
#include <list>
#include <map>

#include "exportloss/artifact.hpp"
#include "exportloss/files.hpp"
#include "exportloss/onnx_file.hpp"
#include "exportloss/state.hpp"
#include "exportloss/tensor_file.hpp"
#include "vectors.hpp"

namespace vectors {

using namespace exportloss;
namespace fs = std::filesystem;

void run_state(Suite& suite, const Json& test, const std::string& name) {
  const Bytes content = suite.read(test.at("file").string());
  const std::string expected = test.at("result").string();
  std::string found = outcome([&] { check_values(parse_state(content, "it"), "it"); });
  if (found == "unreadable") found = "not-safetensors";
  if (found == "foreign") found = "not-a-state";
  // Format 1 has a checksum over Python's spelling, so this runtime refuses it.
  const bool is_old =
      ByteView(content).text().find("exportloss-state/1\"") != std::string_view::npos;
  const std::string wanted = is_old && expected != "not-safetensors" ? "not-a-state" : expected;
  suite.report.that(found == wanted, name + ": " + found + ", expected " + wanted);
  if (test.find("tensors") == nullptr) return;
  TensorFile file;
  for (const auto& [key, value] : test.at("metadata").object()) file.about[key] = value.string();
  std::list<Bytes> contents;
  Bytes values;
  for (const Json& tensor : test.at("tensors").array()) {
    Shape shape;
    for (const Json& side : tensor.at("shape").array()) shape.push_back(side.integer());
    contents.push_back(from_hex(tensor.at("hex").string()));
    file.tensors[tensor.at("name").string()] = {tensor.at("dtype").string(), shape,
                                                contents.back()};
  }
  if (!is_old) file.about["sha256"] = state_digest(file);
  const TensorFile held = parse_tensor_file(content, "it");
  suite.report.that(is_old || held.about == file.about, name + ": metadata and checksum");
  bool is_same = held.tensors.size() == file.tensors.size();
  for (const auto& [key, tensor] : file.tensors) {
    const auto place = held.tensors.find(key);
    is_same = is_same && place != held.tensors.end() && place->second.dtype == tensor.dtype &&
              place->second.shape == tensor.shape &&
              place->second.content.text() == tensor.content.text();
    append(values, tensor.content);
  }
  suite.report.that(is_same, name + ": tensors");
  if (!test.at("canonical").boolean()) return;
  Bytes written = tensor_file_header(file);
  append(written, values);
  suite.report.that(written == content, name + ": written bytes");
}

void run_manifest(Suite& suite, const Json& test, const std::string& name) {
  const Bytes content = suite.read(test.at("file").string());
  const Json* values = test.find("values");
  Manifest manifest;
  std::string found = outcome([&] { manifest = parse_manifest(content, "it"); });
  if (found == "foreign") found = "not-an-artifact";
  std::string wanted = test.at("result").string();
  // The first format, and the other kinds, are refused by name.
  const bool is_first = ByteView(content).text().find("\"exportloss/1\"") != std::string_view::npos;
  const bool is_other = values != nullptr && values->at("kind").string() != "train-step";
  if (is_first || is_other) wanted = "not-an-artifact";
  suite.report.that(found == wanted, name + ": " + found + ", expected " + wanted);
  if (found != "accept" || values == nullptr) return;
  std::vector<std::string> names;
  for (const Json& one : values->at("names").array()) names.push_back(one.string());
  suite.report.that(names == manifest.names && manifest.model == values->at("model").string() &&
                        numbers(values->at("strides")) == manifest.strides &&
                        size_of(values->at("image_size")) == manifest.image_size &&
                        values->at("batch_size").integer() == manifest.batch_size &&
                        values->at("max_targets").integer() == manifest.max_targets &&
                        values->at("optimizer").string() == manifest.optimizer &&
                        values->at("precision").string() == manifest.precision &&
                        values->at("ema").boolean() == manifest.ema,
                    name + ": values");
  const auto size = [values](const char* key) {
    return static_cast<std::size_t>(values->at(key).integer());
  };
  suite.report.that(size("parameters_size") == manifest.parameters.size &&
                        size("statistics_size") == manifest.statistics.size,
                    name + ": sizes");
}

void run_folder(Suite& suite, const Json& test, const std::string& name) {
  const fs::path folder = suite.scratch / "folder";
  fs::remove_all(folder);
  fs::create_directories(folder);
  for (const auto& [file, hex] : test.at("held").object()) {
    write_file(folder / fs::u8path(file), {from_hex(hex.string())});
  }
  std::map<std::string, FileEntry> listed;
  for (const auto& [file, entry] : test.at("listed").object()) {
    listed[file] = {entry.at("sha256").string(), entry.at("size").integer()};
  }
  const std::string found = outcome([&] { read_listed_files(folder, listed); });
  suite.report.that(found == test.at("result").string(), name + ": " + found);
}

void run_layout(Suite& suite, const Json& test, const std::string& name) {
  FlatLayout layout;
  // The reason is the manifest reader's, which says that the manifest is damaged.
  const std::string found = outcome([&] { layout = read_layout(test.at("entries")); });
  const bool is_accepted = test.at("result").string() == "accept";
  suite.report.that((found == "accept") == is_accepted, name + ": " + found);
  if (!is_accepted) return;
  bool is_same = layout.tensors.size() == test.at("sizes").array().size() &&
                 static_cast<std::int64_t>(layout.size) == test.at("size").integer();
  for (std::size_t i = 0; is_same && i < layout.tensors.size(); ++i) {
    is_same = static_cast<double>(layout.tensors[i].size) == numbers(test.at("sizes"))[i] &&
              static_cast<double>(layout.tensors[i].offset) == numbers(test.at("offsets"))[i];
  }
  suite.report.that(is_same, name + ": places");
}

void run_detector(Suite& suite, const Json& test, const std::string& name) {
  const Bytes content = suite.read(test.at("file").string());
  if (test.at("what").string() == "checksum") {
    suite.report.that(model_is_whole(content) == test.at("whole").boolean(), name);
    return;
  }
  std::map<std::string, Bytes> weights;
  std::map<std::string, ByteView> views;
  for (const Json& one : test.at("weights").array()) {
    Bytes& held = weights[one.at("name").string()] = from_hex(one.at("hex").string());
    views.emplace(one.at("name").string(), held);
  }
  const Bytes model = with_initializers(content, views);
  Bytes written = model_checksum(model);
  append(written, model);
  suite.report.that(written == suite.read(test.at("result").string()), name);
}

}  // namespace vectors
