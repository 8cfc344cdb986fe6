// probe REQUEST.json: does what the request asks, and prints the result as JSON.
//
// The tests in Python compare the numbers with the Python package's. Tensors are in safetensors
// files: `tensors` of the request is read, `output` written.
#include <cstdio>
#include <cstring>
#include <iostream>
#include <limits>
#include <list>
#include <string>

#include "exportloss/exportloss.hpp"
#include "exportloss/files.hpp"
#include "exportloss/json.hpp"
#include "exportloss/limits.hpp"

namespace {

using namespace exportloss;

std::string spelled(double value) {
  char buffer[40];
  std::snprintf(buffer, sizeof buffer, "%.17g", value);
  return buffer;
}

std::string joined(const std::vector<std::string>& values) {
  std::string all;
  for (const std::string& value : values) all += (all.empty() ? "" : ", ") + value;
  return "[" + all + "]";
}

double number(const Json& request, const char* key, double otherwise) {
  const Json* found = request.find(key);
  return found == nullptr ? otherwise : found->number();
}

bool flag(const Json& request, const char* key, bool otherwise) {
  const Json* found = request.find(key);
  return found == nullptr ? otherwise : found->boolean();
}

Size size_of(const Json& request, const char* key) {
  const auto& sides = request.at(key).array();
  return {sides.at(0).integer(), sides.at(1).integer()};
}

std::vector<TargetRow> rows_of(const Json& values) {
  std::vector<TargetRow> rows;
  for (const Json& row : values.array()) {
    const auto column = [&row](std::size_t index) { return row.array().at(index).number(); };
    rows.push_back({column(0), column(1), column(2), column(3), column(4), column(5)});
  }
  return rows;
}

std::string file_of(const Json& request, const char* key) { return request.at(key).string(); }

/// Tensors of a request's file, or to be written to one.
class TensorStore {
 public:
  void add(const std::string& name, Shape shape, Bytes content) {
    contents_.push_back(std::move(content));
    file_.tensors[name] = {"U8", std::move(shape), contents_.back()};
  }
  void add(const std::string& name, Shape shape, const std::vector<float>& values) {
    const ByteView view(reinterpret_cast<const std::uint8_t*>(values.data()), values.size() * 4);
    contents_.emplace_back(view.begin(), view.end());
    file_.tensors[name] = {"F32", std::move(shape), contents_.back()};
  }
  void write(const Json& request) const { write_tensor_file(file_of(request, "output"), file_); }

  const TensorFile& read(const Json& request) {
    contents_.push_back(read_bounded(file_of(request, "tensors"), limits::state_bytes));
    return file_ = parse_tensor_file(contents_.back(), "tensors");
  }

 private:
  std::list<Bytes> contents_;
  TensorFile file_;
};

std::vector<float> floats(const StoredTensor& tensor) {
  std::vector<float> values(tensor.content.size() / sizeof(float));
  std::memcpy(values.data(), tensor.content.data(), tensor.content.size());
  return values;
}

std::string do_pad(const Json& request) {
  const Json* overflow = request.find("overflow");
  const bool keeps = overflow != nullptr && overflow->string() == "keep_largest";
  const PaddedTargets padded =
      pad_targets(rows_of(request.at("rows")), request.at("max_targets").integer(),
                  request.at("batch_size").integer(), request.at("num_classes").integer(),
                  keeps ? Overflow::keep_largest : Overflow::raise);
  std::vector<std::string> rows;
  for (const float value : padded.rows) rows.push_back(spelled(double{value}));
  return text("{\"rows\": ", joined(rows), ", \"dropped\": ", padded.dropped, "}");
}

Image image_of(const StoredTensor& tensor) {
  return {{tensor.shape.at(0), tensor.shape.at(1)},
          Bytes(tensor.content.begin(), tensor.content.end())};
}

std::string do_letterbox(const Json& request) {
  TensorStore read, written;
  const Size size = size_of(request, "size");
  std::vector<std::string> places;
  for (const auto& [name, tensor] : read.read(request).tensors) {
    const Image image = image_of(tensor);
    const Letterbox box = Letterbox::fit(image.size, size, flag(request, "scale_up", true),
                                         flag(request, "truncate", false));
    Bytes canvas(static_cast<std::size_t>(size.height * size.width * 3));
    place_image(image, box, canvas.data());
    written.add(name, {3, size.height, size.width}, std::move(canvas));
    const Label label = box.map_label({0, 0.3, 0.7, 0.123, 0.456});
    const Box back = box.unmap_box({-3.25f, 10.5f, 33.3f, 90.125f, 0.5f, 0});
    for (const double value : {label.x, label.y, label.width, label.height, double{back.x1},
                               double{back.y1}, double{back.x2}, double{back.y2}}) {
      places.push_back(spelled(value));
    }
  }
  written.write(request);
  return joined(places);
}

NmsOptions nms_of(const Json& request) {
  NmsOptions options;
  options.conf_thres = static_cast<float>(number(request, "conf_thres", 0.25));
  options.iou_thres = static_cast<float>(number(request, "iou_thres", 0.45));
  options.max_det = static_cast<std::size_t>(number(request, "max_det", 300));
  options.max_candidates = static_cast<std::size_t>(number(request, "max_candidates", 30000));
  options.agnostic = flag(request, "agnostic", false);
  options.multi_label = flag(request, "multi_label", false);
  if (const Json* classes = request.find("classes")) {
    for (const Json& one : classes->array()) {
      options.classes.push_back(static_cast<std::size_t>(one.integer()));
    }
  }
  return options;
}

void add_boxes(TensorStore& to, const std::string& name, const std::vector<Box>& boxes) {
  std::vector<float> values;
  for (const Box& box : boxes) {
    values.insert(values.end(), {box.x1, box.y1, box.x2, box.y2, box.confidence, box.category});
  }
  to.add(name, {static_cast<std::int64_t>(boxes.size()), 6}, values);
}

std::string do_nms(const Json& request) {
  TensorStore read, written;
  for (const auto& [name, tensor] : read.read(request).tensors) {
    const auto rows = static_cast<std::size_t>(tensor.shape.at(0));
    const auto classes = static_cast<std::size_t>(tensor.shape.at(1)) - 5;
    const std::vector<float> values = floats(tensor);
    add_boxes(written, name, non_max_suppression(values.data(), rows, classes, nms_of(request)));
  }
  written.write(request);
  return "{}";
}

std::string do_detect(const Json& request) {
  TensorStore read, written;
  std::vector<Image> images;
  for (const auto& [name, tensor] : read.read(request).tensors) images.push_back(image_of(tensor));
  const Detector detector(file_of(request, "detector"));
  std::optional<Size> size;
  if (request.find("size") != nullptr) size = size_of(request, "size");
  const auto found = detector.detect(images, nms_of(request), size);
  for (std::size_t i = 0; i < found.size(); ++i) add_boxes(written, std::to_string(i), found[i]);
  written.write(request);
  return "{}";
}

std::string do_schedule(const Json& request) {
  Schedule::Options options;
  options.epochs = request.at("epochs").integer();
  options.batches = request.at("batches").integer();
  options.batch_size = request.at("batch_size").integer();
  options.optimizer = request.at("optimizer").string();
  options.cosine = flag(request, "cosine", false);
  options.nominal_batch = static_cast<std::int64_t>(number(request, "nominal_batch", 64));
  options.config.warmup_epochs = number(request, "warmup_epochs", 3);
  options.config.lr0 = number(request, "lr0", 0.01);
  options.config.lrf = number(request, "lrf", 0.01);
  const Schedule schedule(options);
  std::vector<std::string> steps{spelled(schedule.weight_decay())};
  for (std::int64_t epoch = 0; epoch < options.epochs; ++epoch) {
    for (const PlannedStep& step : schedule.steps(epoch)) {
      steps.push_back(joined({spelled(step.lr[0]), spelled(step.lr[1]), spelled(step.lr[2]),
                              spelled(step.momentum), std::to_string(step.accumulate),
                              step.update ? "1" : "0"}));
    }
  }
  return joined(steps);
}

StepOptions options_of(const Json& step) {
  StepOptions options;
  const auto& rates = step.at("lr").array();
  for (std::size_t i = 0; i < 3; ++i) options.lr[i] = rates.at(i).number();
  options.momentum = number(step, "momentum", options.momentum);
  options.weight_decay = number(step, "weight_decay", options.weight_decay);
  options.max_norm = number(step, "max_norm", options.max_norm);
  options.update = flag(step, "update", true);
  return options;
}

std::string do_train(const Json& request) {
  EngineOptions engine;
  engine.threads = static_cast<int>(number(request, "threads", 1));
  TrainSession session(file_of(request, "folder"), engine);
  if (request.find("resume")) session.resume(file_of(request, "resume"));
  if (request.find("start_from")) session.start_from(file_of(request, "start_from"));
  TensorStore read, written;
  const TensorFile* batches = request.find("tensors") ? &read.read(request) : nullptr;
  std::vector<std::string> results;
  for (const Json& step : request.at("steps").array()) {
    const StoredTensor& images = batches->tensors.at("images");
    const std::size_t one = images.content.size() / static_cast<std::size_t>(images.shape.at(0));
    const auto index = static_cast<std::size_t>(step.at("batch").integer());
    const ByteView batch = images.content.part(index * one, one);
    const std::vector<TargetRow> rows = rows_of(step.at("targets"));
    if (step.find("evaluate")) {
      const Evaluation found = session.evaluate(batch, rows, flag(step, "ema", false));
      results.push_back(
          joined({spelled(double{found.loss}), spelled(double{found.items.box}),
                  spelled(double{found.items.objectness}), spelled(double{found.items.category})}));
      if (request.find("output")) {
        written.add("predictions",
                    {images.shape.at(1), static_cast<std::int64_t>(found.predictions.rows),
                     static_cast<std::int64_t>(5 + found.predictions.classes)},
                    found.predictions.values);
      }
      continue;
    }
    const StepResult found = session.step(batch, rows, options_of(step));
    results.push_back(joined({spelled(double{found.loss}), spelled(double{found.items.box}),
                              spelled(double{found.items.objectness}),
                              spelled(double{found.items.category}), found.skipped ? "1" : "0"}));
  }
  if (request.find("save")) session.save(file_of(request, "save"));
  if (request.find("detector")) {
    session.export_inference(file_of(request, "detector"), flag(request, "ema", false));
  }
  if (request.find("output")) written.write(request);
  return text("{\"results\": ", joined(results), ", \"updates\": ", session.updates(),
              ", \"skipped\": ", session.skipped(), "}");
}

std::string do_read(const Json& request) {
  const std::string what = request.at("what").string(), path = file_of(request, "path");
  if (what == "manifest") {
    const Bytes content = read_bounded(path, limits::manifest_bytes);
    parse_manifest(content, path);
  }
  if (what == "folder") open_artifact(path);
  if (what == "state") {
    const TrainState state = load_state(path);
    check_values(state, path);
    if (request.find("output")) save_state(file_of(request, "output"), state);
  }
  if (what == "labels") read_labels(path, request.at("num_classes").integer());
  if (what == "ppm") read_ppm(path);
  return "{}";
}

std::string answer(const Json& request) {
  const std::string& what = request.at("do").string();
  if (what == "pad") return do_pad(request);
  if (what == "letterbox") return do_letterbox(request);
  if (what == "nms") return do_nms(request);
  if (what == "detect") return do_detect(request);
  if (what == "schedule") return do_schedule(request);
  if (what == "train") return do_train(request);
  if (what == "read") return do_read(request);
  throw Error(text("unknown request ", excerpt(what)));
}

}  // namespace

int main(int count, char** arguments) {
  try {
    if (count != 2) throw Error("usage: probe REQUEST.json");
    const Bytes request = read_bounded(arguments[1], limits::manifest_bytes);
    std::cout << answer(Json::parse(ByteView(request).text())) << '\n';
    return 0;
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
