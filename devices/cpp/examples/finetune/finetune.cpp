// finetune ARTIFACTS IMAGES OUTPUT [OPTION VALUE]...
//
// Fine-tunes a detector on a folder of raw images (binary PPM, with YOLO's labels in .txt files
// beside them), and writes OUTPUT/state.safetensors and OUTPUT/detector.onnx. Every fifth image is
// held out, and the detector is measured on those, before and after.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <map>
#include <string>

#include "dataset.hpp"

namespace {

using namespace exportloss;

constexpr const char* usage =
    "usage: finetune ARTIFACTS IMAGES OUTPUT [--epochs 10] [--lr0 0.01] [--threads 1] [--seed 0]\n"
    "                [--resume 0]   1: go on from OUTPUT/state.safetensors, to the same bits";
constexpr int most_skipped = 10;  // steps in a row

struct Settings {
  std::map<std::string, double> values{
      {"--epochs", 10}, {"--lr0", 0.01}, {"--threads", 1}, {"--seed", 0}, {"--resume", 0}};

  std::int64_t whole(const char* name) const {
    const double value = values.at(name);
    if (!(value <= 1e6) || std::trunc(value) != value) {
      throw Error(text(name, " is ", value, "; expected a whole number up to 1000000"));
    }
    return static_cast<std::int64_t>(value);
  }
};

Settings parse(int count, char** arguments) {
  Settings settings;
  for (int index = 4; index < count; index += 2) {
    const auto found = settings.values.find(arguments[index]);
    char* end = nullptr;
    const double value = index + 1 < count ? std::strtod(arguments[index + 1], &end) : 0;
    if (found == settings.values.end() || end == nullptr ||
        end == arguments[index + 1] || *end != '\0' || !(value >= 0)) {
      throw Error(text("unknown option or value: ", arguments[index], '\n', usage));
    }
    found->second = value;
  }
  return settings;
}

void print(const char* when, const Metrics& metrics) {
  std::printf("%s: mAP50 %.3f, mAP50-95 %.3f\n", when, metrics.map50, metrics.map50_95);
}

void train_epoch(TrainSession& session, const std::vector<Batch>& batches, const Schedule& schedule,
                 std::int64_t epoch) {
  const std::vector<PlannedStep> steps = schedule.steps(epoch);
  double total = 0;
  int skipped = 0;
  for (std::size_t index = 0; index < steps.size(); ++index) {
    StepOptions options;
    options.lr = steps[index].lr;
    options.momentum = steps[index].momentum;
    options.weight_decay = schedule.weight_decay();
    options.max_norm = 10;
    options.update = steps[index].update;
    const StepResult result = session.step(batches[index].images, batches[index].targets, options);
    skipped = result.skipped ? skipped + 1 : 0;
    if (skipped >= most_skipped) {
      throw Error(text(skipped, " steps in a row were skipped because their loss or gradients are ",
                       "not finite; train with a lower --lr0"));
    }
    total += result.skipped ? 0.0 : double{result.loss};
  }
  // The last step, which should have updated, was skipped: a sum of gradients may be left that a
  // saved state does not hold. It is dropped here too, so that a resumed run is the same.
  if (skipped > 0) session.load_state(session.state());
  std::printf("epoch %lld: loss %.5f, %lld updates, %lld skipped\n", static_cast<long long>(epoch),
              total / static_cast<double>(steps.size()), static_cast<long long>(session.updates()),
              static_cast<long long>(session.skipped()));
  std::fflush(stdout);
}

void run(const std::filesystem::path& artifacts, const std::filesystem::path& images,
         const std::filesystem::path& output, const Settings& settings) {
  EngineOptions engine;
  engine.threads = static_cast<int>(settings.whole("--threads"));
  TrainSession session(artifacts, engine);
  const Manifest& manifest = session.manifest();
  std::vector<Sample> trained, held_out;
  for (Sample& sample : read_samples(images, manifest)) {
    const bool is_fifth = (trained.size() + held_out.size()) % 5 == 4;
    (is_fifth ? held_out : trained).push_back(std::move(sample));
  }
  if (held_out.empty()) held_out = trained;
  check_capacity(trained, manifest);

  Schedule::Options plan;
  plan.epochs = settings.whole("--epochs");
  plan.batch_size = manifest.batch_size;
  plan.batches =
      (static_cast<std::int64_t>(trained.size()) + plan.batch_size - 1) / plan.batch_size;
  plan.optimizer = manifest.optimizer;
  plan.config.lr0 = settings.values.at("--lr0");
  const Schedule schedule(plan);

  std::filesystem::create_directories(output);
  const std::filesystem::path state = output / "state.safetensors";
  std::int64_t epoch = 0;
  if (settings.whole("--resume") == 1) {
    session.resume(state);
    const auto done = schedule.epochs_done(session.updates() + session.skipped());
    if (!done) throw Error("the state is of another run; leave --resume out to begin anew");
    epoch = *done;
  } else {
    print("start", evaluate(session, held_out));
  }
  const auto seed = static_cast<std::uint64_t>(settings.whole("--seed"));
  for (; epoch < plan.epochs; ++epoch) {
    train_epoch(session, shuffled_batches(trained, manifest, seed, epoch), schedule, epoch);
    session.save(state);
  }
  print("end", evaluate(session, held_out));
  session.export_inference(output / "detector.onnx", manifest.ema);
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 4) {
    std::cerr << usage << '\n';
    return 2;
  }
  try {
    run(arguments[1], arguments[2], arguments[3], parse(count, arguments));
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "finetune: " << error.what() << '\n';
    return 1;
  }
}
