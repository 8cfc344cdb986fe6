#include "exportloss/state.hpp"

#include <algorithm>
#include <cstring>

#include "exportloss/error.hpp"
#include "exportloss/file_format.hpp"
#include "exportloss/files.hpp"
#include "exportloss/limits.hpp"
#include "exportloss/sha256.hpp"

namespace exportloss {
namespace {

constexpr const char* family = "exportloss-state";
constexpr int newest = 2;
constexpr const char* optimizer_prefix = "optimizer/";  // optimizer/<state tensor>/<parameter>
constexpr const char* ema_prefix = "ema/";              // ema/<parameter or statistic>
constexpr const char* described[] = {"model", "names", "anchors", "strides"};

bool starts_with(const std::string& name, std::string_view start) {
  return name.compare(0, start.size(), start) == 0;
}

Tensor tensor_of(const std::string& name, const StoredTensor& stored, const std::string& where) {
  if (stored.dtype != "F32") {
    throw Error(text(where, ": tensor ", excerpt(name, 200), " is ", excerpt(stored.dtype),
                     "; expected F32"),
                Reason::values);
  }
  Tensor tensor{stored.shape, std::vector<float>(stored.content.size() / sizeof(float))};
  if (!stored.content.empty()) {
    std::memcpy(tensor.values.data(), stored.content.data(), stored.content.size());
  }
  return tensor;
}

std::string metadata(const TensorFile& file, const std::string& key) {
  const auto found = file.about.find(key);
  return found == file.about.end() ? std::string() : found->second;
}

// A count is spelled in up to ten decimal digits.
std::int64_t count_of(const TensorFile& file, const std::string& key, const std::string& where) {
  const std::string spelled = metadata(file, key);
  const bool has_digits = std::all_of(spelled.begin(), spelled.end(),
                                      [](char one) { return one >= '0' && one <= '9'; });
  const bool is_padded = spelled.size() > 1 && spelled[0] == '0';
  if (spelled.empty() || spelled.size() > 10 || !has_digits || is_padded) {
    throw Error(text(where, " is not a complete training state: ", key, " is ", excerpt(spelled),
                     ", expected up to ten decimal digits"),
                Reason::incomplete);
  }
  return std::stoll(spelled);
}

StoredTensor stored(const Tensor& tensor) {
  return {"F32",
          tensor.shape,
          {reinterpret_cast<const std::uint8_t*>(tensor.values.data()),
           tensor.values.size() * sizeof(float)}};
}

void check_format(const TensorFile& file, const std::string& where) {
  const std::string found = metadata(file, "format");
  const auto number = format_number(family, found);
  if (!number) {
    throw Error(text(where, " has format ", excerpt(found), "; expected a training state, '",
                     family, '/', newest, "'"),
                Reason::foreign);
  }
  if (*number < newest) {
    throw Error(text(where, " is a state of format ", *number, "; this runtime reads format ",
                     newest, ": open and save it with the Python package, which writes that"),
                Reason::foreign);
  }
  const bool has_checksum = file.about.count("sha256") > 0 || *number <= newest;
  if (has_checksum && metadata(file, "sha256") != state_digest(file)) {
    throw Error(text(where, " is damaged: its content does not match its sha256; copy it again"),
                Reason::damaged);
  }
  if (*number > newest) refuse_newer(where, text("format ", *number), text("format ", newest));
}

}  // namespace

TrainState parse_state(ByteView content, const std::string& where) {
  const TensorFile file = parse_tensor_file(content, where);
  check_format(file, where);
  TrainState state;
  for (const auto& [name, tensor] : file.tensors) {
    if (name == "balance") {
      if (tensor.shape.size() != 1) {
        throw Error(text(where, " is of another model: balance has ", tensor.shape.size(),
                         " dimensions, expected one"));
      }
      state.balance = tensor_of(name, tensor, where).values;
    } else if (starts_with(name, optimizer_prefix)) {
      const std::string rest = name.substr(std::strlen(optimizer_prefix));
      const std::size_t slash = rest.find('/');
      if (slash == rest.npos) {
        throw Error(text(where, " is not a complete training state: it holds ", excerpt(name)),
                    Reason::incomplete);
      }
      state.optimizer[rest.substr(0, slash)].emplace(rest.substr(slash + 1),
                                                     tensor_of(name, tensor, where));
    } else if (starts_with(name, ema_prefix)) {
      state.ema.emplace(name.substr(std::strlen(ema_prefix)), tensor_of(name, tensor, where));
    } else {
      state.model.emplace(name, tensor_of(name, tensor, where));
    }
  }
  if (file.tensors.count("balance") == 0) {
    throw Error(text(where, " is not a complete training state: it lacks 'balance'"),
                Reason::incomplete);
  }
  state.updates = count_of(file, "updates", where);
  if (file.about.count("skipped") > 0) state.skipped = count_of(file, "skipped", where);
  for (const char* key : described) {
    if (const auto found = file.about.find(key); found != file.about.end()) {
      state.description.insert(*found);
    }
  }
  return state;
}

TrainState load_state(const std::filesystem::path& path) {
  return parse_state(read_bounded(path, limits::state_bytes), name_of(path));
}

void save_state(const std::filesystem::path& path, const TrainState& state) {
  TensorFile file;
  for (const auto& [name, tensor] : state.model) file.tensors[name] = stored(tensor);
  for (const auto& [what, tensors] : state.optimizer) {
    for (const auto& [name, tensor] : tensors) {
      file.tensors[text(optimizer_prefix, what, '/', name)] = stored(tensor);
    }
  }
  for (const auto& [name, tensor] : state.ema) file.tensors[ema_prefix + name] = stored(tensor);
  const Tensor balance{{static_cast<std::int64_t>(state.balance.size())}, state.balance};
  file.tensors["balance"] = stored(balance);
  file.about = state.description;
  file.about["format"] = text(family, '/', newest);
  file.about["updates"] = std::to_string(state.updates);
  file.about["skipped"] = std::to_string(state.skipped);
  file.about["sha256"] = state_digest(file);
  write_tensor_file(path, file);
}

}  // namespace exportloss
