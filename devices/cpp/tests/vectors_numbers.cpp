// The vectors of numbers: target rows, images, schedules, suppression and metrics.
#include <map>

#include "exportloss/letterbox.hpp"
#include "exportloss/metrics.hpp"
#include "exportloss/nms.hpp"
#include "exportloss/schedule.hpp"
#include "exportloss/targets.hpp"
#include "vectors.hpp"

namespace vectors {

using namespace exportloss;

void run_target(Suite& suite, const Json& test, const std::string& name) {
  const std::string expected = test.at("result").string();
  if (expected == "shape") return;  // rows of six numbers by their type
  std::vector<TargetRow> rows;
  for (const Json& row : test.at("rows").array()) {
    const std::vector<double> v = numbers(row);
    rows.push_back({v.at(0), v.at(1), v.at(2), v.at(3), v.at(4), v.at(5)});
  }
  const Json* overflow = test.find("overflow");
  const bool keeps = overflow != nullptr && overflow->string() == "keep_largest";
  PaddedTargets padded;
  const std::string found = outcome([&] {
    padded = pad_targets(rows, test.at("max_targets").integer(), test.at("batch_size").integer(),
                         test.at("num_classes").integer(),
                         keeps ? Overflow::keep_largest : Overflow::raise);
  });
  suite.report.that(found == expected, name + ": " + found);
  if (expected != "accept") return;
  bool is_same = static_cast<std::int64_t>(padded.dropped) == test.at("dropped").integer();
  std::size_t at = 0;
  for (const Json& row : test.at("padded").array()) {
    for (const double value : numbers(row))
      is_same = is_same && same_bits(padded.rows[at++], value);
  }
  suite.report.that(is_same && at == padded.rows.size(), name + ": padded rows");
}

namespace {

void run_letterbox(Suite& suite, const Json& test, const std::string& name) {
  const std::string what = test.at("what").string();
  const Json *scale_up = test.find("scale_up"), *color = test.find("color");
  const Image image{size_of(test.at("source")), suite.read(test.at("image").string())};
  const Letterbox box =
      Letterbox::fit(image.size, size_of(test.at("size")),
                     scale_up == nullptr || scale_up->boolean(), what != "detection");
  suite.report.that(box.scaled == size_of(test.at("scaled")) && box.pad == size_of(test.at("pad")),
                    name + ": place");
  const std::vector<double> ratio = numbers(test.at("ratio"));
  suite.report.that(box.ratio_y() == ratio.at(0) && box.ratio_x() == ratio.at(1), name + ": ratio");
  const auto plane = static_cast<std::size_t>(box.size.height * box.size.width);
  Bytes canvas(plane * 3), pixels(plane * 3);
  place_image(image, box, canvas.data(), what == "validation" ? Shrink::area : Shrink::linear,
              color == nullptr ? padding_grey : static_cast<std::uint8_t>(color->integer()));
  for (std::size_t i = 0; i < plane * 3; ++i) pixels[i] = canvas[i % 3 * plane + i / 3];
  suite.report.that(pixels == suite.read(test.at("result").string()), name + ": pixels");
  if (test.find("labels") == nullptr) return;
  const auto& labels = test.at("labels").array();
  for (std::size_t i = 0; i < labels.size(); ++i) {
    const std::vector<double> v = numbers(labels[i]);
    const Label mapped = box.map_label({v.at(0), v.at(1), v.at(2), v.at(3), v.at(4)});
    const std::vector<double> e = numbers(test.at("mapped_labels").array().at(i));
    suite.report.that(
        mapped.x == e[1] && mapped.y == e[2] && mapped.width == e[3] && mapped.height == e[4],
        name + ": label");
  }
  const auto& boxes = test.at("boxes").array();
  for (std::size_t i = 0; i < boxes.size(); ++i) {
    const std::vector<double> v = numbers(boxes[i]);
    const auto f = [&v](std::size_t at) { return static_cast<float>(v.at(at)); };
    const Box back = box.unmap_box({f(0), f(1), f(2), f(3), f(4), f(5)});
    const std::vector<double> e = numbers(test.at("unmapped_boxes").array().at(i));
    suite.report.that(same_bits(back.x1, e[0]) && same_bits(back.y1, e[1]) &&
                          same_bits(back.x2, e[2]) && same_bits(back.y2, e[3]),
                      name + ": box");
  }
}

}  // namespace

void run_image(Suite& suite, const Json& test, const std::string& name) {
  const std::string what = test.at("what").string();
  if (what == "pixels") {
    const std::vector<float> expected = floats(from_hex(test.at("hex").string()));
    bool is_same = expected.size() == 256;
    for (std::size_t i = 0; is_same && i < 256; ++i) {
      is_same = expected[i] == static_cast<float>(i) / 255.0f;
    }
    suite.report.that(is_same, name);
  } else if (what == "planes") {
    const Image image{size_of(test.at("source")), from_hex(test.at("hex").string())};
    Bytes planes(image.pixels.size());
    place_image(image, Letterbox::fit(image.size, image.size), planes.data());
    suite.report.that(planes == from_hex(test.at("planes").string()), name);
  } else {
    run_letterbox(suite, test, what + ", " + name);
  }
}

void run_schedule(Suite& suite, const Json& test, const std::string& name) {
  if (test.at("what").string() == "ema") {
    const std::vector<double> updates = numbers(test.at("updates"));
    const std::vector<double> decays = numbers(test.at("decays"));
    for (std::size_t i = 0; i < updates.size(); ++i) {
      const double found = decay_after(static_cast<std::int64_t>(updates[i]));
      suite.report.that(near(found, decays[i], 1e-12), name);
    }
    return;
  }
  Schedule::Options options;
  options.epochs = test.at("epochs").integer();
  options.batches = test.at("batches").integer();
  options.batch_size = test.at("batch_size").integer();
  options.optimizer = test.at("optimizer").string();
  options.cosine = test.at("cosine").boolean();
  options.nominal_batch = test.at("nominal_batch").integer();
  const Json& config = test.at("config");
  options.config = {config.at("lr0").number(),           config.at("lrf").number(),
                    config.at("momentum").number(),      config.at("weight_decay").number(),
                    config.at("warmup_epochs").number(), config.at("warmup_momentum").number(),
                    config.at("warmup_bias_lr").number()};
  const Schedule schedule(options);
  suite.report.that(near(schedule.weight_decay(), test.at("weight_decay").number(), 1e-12) &&
                        schedule.warmup_batches() == test.at("warmup_batches").integer(),
                    name + ": decay and warm-up");
  const auto& steps = test.at("steps").array();
  std::size_t at = 0;
  bool is_same = true;
  for (std::int64_t epoch = 0; epoch < options.epochs; ++epoch) {
    for (const PlannedStep& step : schedule.steps(epoch)) {
      const auto& e = steps.at(at++).array();
      // To the bit, which is more than is asked for.
      is_same = is_same && step.lr[0] == e.at(0).number() && step.lr[1] == e.at(1).number() &&
                step.lr[2] == e.at(2).number() && step.momentum == e.at(3).number() &&
                step.accumulate == e.at(4).integer() && step.update == e.at(5).boolean();
    }
  }
  suite.report.that(is_same && at == steps.size(), name + ": steps");
}

void run_nms(Suite& suite, const Json& test, const std::string& name) {
  const std::vector<double> shape = numbers(test.at("shape"));
  const auto rows = static_cast<std::size_t>(shape.at(1));
  const auto classes = static_cast<std::size_t>(shape.at(2)) - 5;
  const std::vector<float> values = floats(suite.read(test.at("predictions").string()));
  NmsOptions options;
  options.conf_thres = static_cast<float>(test.at("conf_thres").number());
  options.iou_thres = static_cast<float>(test.at("iou_thres").number());
  options.max_det = static_cast<std::size_t>(test.at("max_det").integer());
  options.agnostic = test.at("agnostic").boolean();
  options.multi_label = test.at("multi_label").boolean();
  options.max_candidates = static_cast<std::size_t>(test.at("max_candidates").integer());
  if (!test.at("classes").is_null()) {
    for (const double one : numbers(test.at("classes"))) {
      options.classes.push_back(static_cast<std::size_t>(one));
    }
  }
  bool is_usable = true, is_same = true;
  for (std::size_t image = 0; image < static_cast<std::size_t>(shape.at(0)); ++image) {
    const float* first = values.data() + image * rows * (5 + classes);
    is_usable = is_usable && outcome([&] { check_predictions(first, rows, classes); }) == "accept";
    const auto kept = non_max_suppression(first, rows, classes, options);
    const auto& expected = test.at("kept").array().at(image).array();
    is_same = is_same && kept.size() == expected.size();
    for (std::size_t i = 0; is_same && i < kept.size(); ++i) {
      const std::vector<double> e = numbers(expected[i]);
      is_same = same_bits(kept[i].x1, e[0]) && same_bits(kept[i].y1, e[1]) &&
                same_bits(kept[i].x2, e[2]) && same_bits(kept[i].y2, e[3]) &&
                same_bits(kept[i].confidence, e[4]) && same_bits(kept[i].category, e[5]);
    }
  }
  suite.report.that(is_same, name + ": boxes");
  suite.report.that(is_usable == test.at("usable").boolean(), name + ": usable");
}

void run_metrics(Suite& suite, const Json& test, const std::string& name) {
  MetricsAccumulator accumulator(static_cast<std::size_t>(test.at("num_classes").integer()),
                                 static_cast<std::size_t>(test.at("max_det").integer()));
  for (const Json& image : test.at("images").array()) {
    std::vector<Box> detections;
    std::vector<TrueBox> labels;
    for (const Json& row : image.at("detections").array()) {
      const std::vector<double> v = numbers(row);
      const auto f = [&v](std::size_t at) { return static_cast<float>(v.at(at)); };
      detections.push_back({f(0), f(1), f(2), f(3), f(4), f(5)});
    }
    for (const Json& row : image.at("labels").array()) {
      const std::vector<double> v = numbers(row);
      labels.push_back({v.at(0), v.at(1), v.at(2), v.at(3), v.at(4)});
    }
    accumulator.add(detections, labels);
  }
  const Metrics found = accumulator.result();
  const Json& expected = test.at("metrics");
  const std::map<std::string, double> values{{"precision", found.precision},
                                             {"recall", found.recall},
                                             {"map50", found.map50},
                                             {"map50_95", found.map50_95},
                                             {"confidence", found.confidence}};
  for (const auto& [key, value] : values) {
    suite.report.that(near(value, expected.at(key).number(), 1e-9), name + ": " + key);
  }
  for (const auto& [category, value] : test.at("ap50_95").object()) {
    suite.report.that(near(found.ap50_95.at(std::stoul(category)), value.number(), 1e-9),
                      name + ": class " + category);
  }
}

}  // namespace vectors
