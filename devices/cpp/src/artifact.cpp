#include "exportloss/artifact.hpp"

#include <algorithm>

#include "exportloss/error.hpp"
#include "exportloss/files.hpp"
#include "exportloss/limits.hpp"
#include "exportloss/onnx_file.hpp"
#include "exportloss/sha256.hpp"
#include "printable.hpp"

namespace exportloss {
namespace {

constexpr std::size_t longest_name = 255;

bool ends_with(const std::string& name, const std::string& ending) {
  return name.size() >= ending.size() &&
         name.compare(name.size() - ending.size(), ending.size(), ending) == 0;
}

// A name alone, on any system: no separator, no drive, printable.
bool is_plain(const std::string& name) {
  if (name.empty() || name == "." || name == ".." || name.size() > longest_name) return false;
  return is_printable(name, longest_name) && name.find_first_of("/\\:") == name.npos;
}

// Graphs whose opsets the manifest sums up.
bool counts(const std::string& name) {
  return name == "train_step.onnx" || name == "eval_step.onnx" || name == "inference.onnx" ||
         name == "apply_step.onnx";
}

Bytes read_listed(const std::filesystem::path& path, const FileEntry& entry) {
  const std::uint64_t most =
      ends_with(path.string(), ".safetensors") ? limits::state_bytes : limits::model_bytes;
  if (entry.size > static_cast<std::int64_t>(most)) {
    throw Error(text(name_of(path), " has ", entry.size, " bytes; expected at most ", most),
                Reason::too_large);
  }
  Bytes content = read_bounded(path, most, Links::refuse);
  const auto damaged = [&path](const std::string& found, const std::string& expected) {
    return Error(text(name_of(path), " is damaged: it has ", found, ", the manifest says ",
                      expected, "; export again or copy the folder again"),
                 Reason::damaged);
  };
  if (static_cast<std::int64_t>(content.size()) != entry.size) {
    throw damaged(text(content.size(), " bytes"), text(entry.size));
  }
  if (const std::string found = sha256(content); found != entry.sha256) {
    throw damaged(text("sha256 ", found.substr(0, 12), "..."), excerpt(entry.sha256, 12));
  }
  return content;
}

}  // namespace

const Bytes& Artifact::file(const std::string& name) const {
  if (const auto found = files.find(name); found != files.end()) return found->second;
  throw Error(
      text("the artifacts folder is damaged: its manifest names no ", name, "; export again"),
      Reason::damaged);
}

std::map<std::string, Bytes> read_listed_files(const std::filesystem::path& folder,
                                               const std::map<std::string, FileEntry>& listed) {
  if (listed.size() > limits::artifact_files) {
    throw Error(text(name_of(folder), ": the manifest names ", listed.size(),
                     " files; expected at most ", limits::artifact_files, ": export again"),
                Reason::too_many);
  }
  for (const auto& [name, entry] : listed) {
    if (!is_plain(name)) {
      throw Error(text(name_of(folder), ": the manifest names ", excerpt(name),
                       ", outside the folder; export again"),
                  Reason::outside);
    }
  }
  std::map<std::string, Bytes> files;
  for (const auto& [name, entry] : listed) {
    files.emplace(name, read_listed(folder / std::filesystem::u8path(name), entry));
  }
  return files;
}

Artifact open_artifact(const std::filesystem::path& folder) {
  Artifact artifact;
  artifact.manifest = read_manifest(folder);
  for (const char* name : {"train_step.onnx", "eval_step.onnx", "state.safetensors"}) {
    if (artifact.manifest.files.count(name) == 0) {
      throw Error(
          text(name_of(folder), " is damaged: its manifest names no ", name, "; export again"),
          Reason::damaged);
    }
  }
  artifact.files = read_listed_files(folder, artifact.manifest.files);
  std::int64_t newest = 0;
  for (const auto& [name, content] : artifact.files) {
    if (!ends_with(name, ".onnx")) continue;
    check_model(content, name_of(folder / name));
    if (counts(name)) newest = std::max(newest, opset_of(content));
  }
  if (newest != artifact.manifest.opset) {
    throw Error(text(name_of(folder), " has graphs of opset ", newest, ", but the manifest says ",
                     artifact.manifest.opset, "; export again"),
                Reason::damaged);
  }
  return artifact;
}

}  // namespace exportloss
