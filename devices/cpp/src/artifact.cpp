#include "exportloss/artifact.hpp"

#include <algorithm>

#include "exportloss/error.hpp"
#include "exportloss/files.hpp"
#include "exportloss/limits.hpp"
#include "exportloss/onnx_file.hpp"
#include "exportloss/sha256.hpp"

namespace exportloss {
namespace {

constexpr std::size_t longest_name = 255;

bool ends_with(const std::string& name, const std::string& ending) {
  return name.size() >= ending.size() &&
         name.compare(name.size() - ending.size(), ending.size(), ending) == 0;
}

// A name alone, on any system: no separator, no drive, no control character.
bool is_plain(const std::string& name) {
  if (name.empty() || name == "." || name == ".." || name.size() > longest_name) return false;
  return std::none_of(name.begin(), name.end(), [](char character) {
    const auto byte = static_cast<unsigned char>(character);
    return byte < 0x20 || byte == 0x7f || character == '/' || character == '\\' ||
           character == ':';
  });
}

Bytes read_listed(const std::filesystem::path& path, const FileEntry& entry) {
  const std::uint64_t most =
      ends_with(path.string(), ".safetensors") ? limits::state_bytes : limits::model_bytes;
  if (entry.size > most) {
    throw Error(text(name_of(path), " has ", entry.size, " bytes; expected at most ", most));
  }
  Bytes content = read_bounded(path, most, Links::refuse);
  if (content.size() != entry.size) {
    throw Error(text(name_of(path), " is damaged: it has ", content.size(),
                     " bytes, the manifest says ", entry.size,
                     "; export again or copy the folder again"));
  }
  if (const std::string found = sha256(content); found != entry.sha256) {
    throw Error(text(name_of(path), " is damaged: its sha256 is ", found.substr(0, 12),
                     "..., the manifest says ", excerpt(entry.sha256, 12),
                     "; export again or copy the folder again"));
  }
  return content;
}

}  // namespace

const Bytes& Artifact::file(const std::string& name) const {
  if (const auto found = files.find(name); found != files.end()) return found->second;
  throw Error(text("the artifacts folder is damaged: its manifest names no ", name,
                   "; export again"));
}

Artifact open_artifact(const std::filesystem::path& folder) {
  Artifact artifact;
  artifact.manifest = read_manifest(folder);
  const auto& listed = artifact.manifest.files;
  if (listed.size() > limits::artifact_files) {
    throw Error(text(name_of(folder), ": the manifest names ", listed.size(),
                     " files; expected at most ", limits::artifact_files));
  }
  for (const auto& [name, entry] : listed) {
    if (!is_plain(name)) {
      throw Error(text(name_of(folder), ": the manifest names ", excerpt(name),
                       ", outside the folder; export again"));
    }
  }
  for (const char* name : {"train_step.onnx", "eval_step.onnx", "state.safetensors"}) {
    if (listed.count(name) == 0) {
      throw Error(text(name_of(folder), " is damaged: its manifest names no ", name,
                       "; export again"));
    }
  }
  for (const auto& [name, entry] : listed) {
    const std::filesystem::path path = folder / std::filesystem::u8path(name);
    Bytes content = read_listed(path, entry);
    if (ends_with(name, ".onnx")) check_model(content, name_of(path));
    artifact.files.emplace(name, std::move(content));
  }
  return artifact;
}

}  // namespace exportloss
