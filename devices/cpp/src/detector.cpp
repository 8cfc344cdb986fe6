#include "exportloss/detector.hpp"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "engine.hpp"
#include "exportloss/files.hpp"
#include "exportloss/limits.hpp"
#include "exportloss/onnx_file.hpp"

namespace exportloss {
namespace {

constexpr std::int64_t most_values = std::int64_t{1} << 28;  // of the images at once

// A session of an ONNX file, and what it needs to live.
struct OpenFile {
  Ort::Env env = make_environment();
  Ort::Session session{nullptr};
  std::string where, input, output;
  std::optional<std::size_t> batch_size;
  std::optional<Size> image_size;
};

std::shared_ptr<OpenFile> open_file(const std::filesystem::path& path,
                                    const EngineOptions& options) {
  auto file = std::make_shared<OpenFile>();
  file->where = name_of(path);
  const Bytes content = read_bounded(path, limits::model_bytes);
  if (!model_is_whole(content)) {
    throw Error(text(file->where, " is damaged: its content does not match its sha256; copy or ",
                     "export it again"));
  }
  check_model(content, file->where);
  file->session = open_graph(file->env, content, file->where, options);
  const Signatures inputs = inputs_of(file->session);
  Ort::AllocatorWithDefaultOptions allocator;
  if (inputs.size() != 1 || inputs.begin()->second.type != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT ||
      inputs.begin()->second.shape.size() != 4 || inputs.begin()->second.shape[1] != 3) {
    throw Error(text(file->where,
                     " takes other inputs than images alone, (B, 3, H, W) float32: it ",
                     "is no detector that this runtime opens"));
  }
  const Shape& shape = inputs.begin()->second.shape;
  file->input = inputs.begin()->first;
  file->output = file->session.GetOutputNameAllocated(0, allocator).get();
  std::int64_t fixed = 1;
  for (const std::int64_t side : shape) {
    if (side == 0 || side > most_values || (side > 0 && (fixed *= side) > most_values)) {
      throw Error(text(file->where, " takes images of a side of 0 or of too many values at once"));
    }
  }
  if (shape[0] > 0) file->batch_size = static_cast<std::size_t>(shape[0]);
  if (shape[2] > 0 && shape[3] > 0) file->image_size = Size{shape[2], shape[3]};
  return file;
}

Predictions run_file(OpenFile& file, ByteView images, std::size_t count, Size size) {
  std::vector<float> scaled(images.size());
  std::transform(images.begin(), images.end(), scaled.begin(),
                 [](std::uint8_t byte) { return static_cast<float>(byte) / 255.0f; });
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
  const Shape shape{static_cast<std::int64_t>(count), 3, size.height, size.width};
  const Ort::Value input = Ort::Value::CreateTensor<float>(memory, scaled.data(), scaled.size(),
                                                           shape.data(), shape.size());
  const char* const inputs[] = {file.input.c_str()};
  const char* const outputs[] = {file.output.c_str()};
  const auto results = file.session.Run(Ort::RunOptions(), inputs, &input, 1, outputs, 1);
  const auto info = results.at(0).GetTensorTypeAndShapeInfo();
  const Shape found = info.GetShape();
  if (info.GetElementType() != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT || found.size() != 3 ||
      found[0] != shape[0] || found[2] < 6) {
    throw Error(text(file.where, " gives no (B, N, 5 + classes): it is no YOLOv5 detector without ",
                     "non-maximum suppression in the file"));
  }
  const float* values = results.at(0).GetTensorData<float>();
  return {{values, values + elements(found)},
          static_cast<std::size_t>(found[1]),
          static_cast<std::size_t>(found[2] - 5)};
}

}  // namespace

Detector::Detector(const std::filesystem::path& path, const EngineOptions& options) {
  const auto file = open_file(path, options);
  batch_size_ = file->batch_size;
  image_size_ = file->image_size;
  predict_ = [file](ByteView images, std::size_t count, Size size) {
    return guarded(text(file->where, " cannot be run"),
                   [&] { return run_file(*file, images, count, size); });
  };
}

Detector::Detector(TrainSession& session, bool ema)
    : predict_([&session, ema](ByteView images, std::size_t, Size) {
        return session.evaluate(images, {}, ema).predictions;
      }),
      batch_size_(static_cast<std::size_t>(session.manifest().batch_size)),
      image_size_(session.manifest().image_size) {}

Predictions Detector::predict(ByteView images, std::size_t count, Size size) const {
  const std::size_t expected =
      elements({static_cast<std::int64_t>(count), 3, size.height, size.width});
  if (images.size() != expected) {
    throw Error(text("images have ", images.size(), " bytes; expected ", expected));
  }
  return predict_(images, count, size);
}

std::vector<std::vector<Box>> Detector::detect(const std::vector<Image>& images,
                                               const NmsOptions& options,
                                               std::optional<Size> size) const {
  if (size && image_size_ && *size != *image_size_) {
    throw Error("the detector takes images of one other size only; leave the size out");
  }
  const Size canvas = size.value_or(image_size_.value_or(Size{640, 640}));
  const std::size_t step = batch_size_.value_or(std::max<std::size_t>(images.size(), 1));
  const std::size_t one = elements({3, canvas.height, canvas.width});
  std::vector<std::vector<Box>> found;
  for (std::size_t start = 0; start < images.size(); start += step) {
    const std::size_t count = std::min(step, images.size() - start);
    std::vector<Letterbox> boxes;
    Bytes batch(step * one);
    for (std::size_t index = 0; index < step; ++index) {
      const Image& image = images[start + (index < count ? index : 0)];  // fills the batch
      boxes.push_back(Letterbox::fit(image.size, canvas));
      place_image(image, boxes.back(), batch.data() + index * one);
    }
    const Predictions rows = predict(batch, step, canvas);
    for (std::size_t index = 0; index < count; ++index) {
      const float* first = rows.values.data() + index * rows.rows * (5 + rows.classes);
      check_predictions(first, rows.rows, rows.classes);
      found.push_back(non_max_suppression(first, rows.rows, rows.classes, options));
      for (Box& box : found.back()) box = boxes[index].unmap_box(box);
    }
  }
  return found;
}

}  // namespace exportloss
