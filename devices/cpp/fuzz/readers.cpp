// Every reader, given any bytes, returns or throws Error. FUZZED is the one that is run.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "exportloss/error.hpp"
#include "exportloss/images.hpp"
#include "exportloss/json.hpp"
#include "exportloss/manifest.hpp"
#include "exportloss/onnx_file.hpp"
#include "exportloss/protobuf.hpp"
#include "exportloss/sha256.hpp"
#include "exportloss/state.hpp"
#include "exportloss/targets.hpp"
#include "exportloss/tensor_file.hpp"

namespace {

using namespace exportloss;

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "does not hold: %s\n", what);
  std::abort();
}

[[maybe_unused]] void fuzz_json(ByteView content) {
  const Json value = Json::parse(content.text());
  if (!value.is_string()) return;
  const std::string spelled = json_string(value.string());
  require(Json::parse(spelled).string() == value.string(), "a written text reads as it was");
}

// Past the checksum, which no mutation matches.
[[maybe_unused]] void fuzz_manifest(ByteView content) {
  constexpr std::string_view key = "\"sha256\": \"";
  std::string manifest(content.text());
  const std::size_t place = manifest.find(key);
  if (place != manifest.npos && place + key.size() + 64 <= manifest.size()) {
    const std::size_t start = place + key.size();
    manifest.erase(start, 64);
    manifest.insert(start, sha256(ByteView(manifest)));
  }
  const Manifest read = parse_manifest(ByteView(manifest), "it");
  require(read.parameters.size > 0 && !read.names.empty(), "a manifest has parameters and names");
}

[[maybe_unused]] void fuzz_state(ByteView content) {
  TensorFile file = parse_tensor_file(content, "it");
  file.about["sha256"] = state_digest(file);
  Bytes written = tensor_file_header(file);
  for (const auto& [name, tensor] : file.tensors) append(written, tensor.content);
  const TensorFile again = parse_tensor_file(written, "it");
  require(again.about == file.about && again.tensors.size() == file.tensors.size() &&
              state_digest(again) == file.about["sha256"],
          "a written file reads as it was");
  const TrainState state = parse_state(written, "it");
  check_values(state, "it");
  check_same_model(state, state, "it");
}

[[maybe_unused]] void fuzz_model(ByteView content) {
  model_is_whole(content);
  const std::vector<std::uint8_t> values(16, 7);
  const Bytes model = with_initializers(content, {{"parameters", values}, {"statistics", values}});
  Bytes whole = model_checksum(model);
  append(whole, model);
  require(model_is_whole(whole), "a model matches its own checksum");
  check_model(content, "it");
  check_model(whole, "it");
}

[[maybe_unused]] void fuzz_targets(ByteView content) {
  std::vector<TargetRow> rows(content.size() / (6 * sizeof(double)));
  for (std::size_t index = 0; index < rows.size(); ++index) {
    double values[6];
    std::memcpy(values, content.data() + index * sizeof values, sizeof values);
    rows[index] = {values[0], values[1], values[2], values[3], values[4], values[5]};
  }
  const PaddedTargets padded = pad_targets(rows, 4, 2, 3, Overflow::keep_largest);
  require(padded.rows.size() == 24, "there are as many rows as the graph takes");
  for (const float value : padded.rows) require(value >= 0 && value <= 2, "values are in range");
}

[[maybe_unused]] void fuzz_ppm(ByteView content) {
  const Image image = parse_ppm(content, "it");
  const Letterbox box = Letterbox::fit(image.size, {24, 32});
  Bytes canvas(24 * 32 * 3);
  place_image(image, box, canvas.data());
  place_image(image, box, canvas.data(), Shrink::area);
}

[[maybe_unused]] void fuzz_labels(ByteView content) {
  for (const Label& label : parse_labels(content, 3, "it")) {
    require(label.category >= 0 && label.category < 3 && label.x >= 0 && label.x <= 1 &&
                label.width > 0 && label.width <= 1,
            "labels are in range");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    FUZZED({data, size});
  } catch (const Error&) {
    return 0;
  }
  return 0;
}
