#include "exportloss/session.hpp"

#include <cmath>
#include <map>
#include <string>
#include <utility>

#include "engine.hpp"
#include "evaluation_graph.hpp"
#include "exportloss/artifact.hpp"
#include "exportloss/files.hpp"
#include "exportloss/onnx_file.hpp"
#include "exportloss/schedule.hpp"
#include "flat_state.hpp"
#include "step_loop.hpp"
#include "step_signatures.hpp"

namespace exportloss {
namespace {

constexpr double largest_rate = 1000;

void check_options(const StepOptions& options, bool has_ema) {
  const auto check = [](const char* name, double value, double most) {
    if (!(value >= 0 && value <= most)) {
      throw Error(text(name, " is ", value, "; expected a number in [0, ", most, "]"));
    }
  };
  check("lr (weights)", options.lr[0], largest_rate);
  check("lr (norms)", options.lr[1], largest_rate);
  check("lr (biases)", options.lr[2], largest_rate);
  check("weight_decay", options.weight_decay, largest_rate);
  check("momentum", options.momentum, 1);
  if (options.momentum >= 1) throw Error("momentum is 1; expected below 1");
  if (!(std::isfinite(options.loss_scale) && options.loss_scale > 0)) {
    throw Error(text("loss_scale is ", options.loss_scale, "; expected a finite number above 0"));
  }
  if (!(options.max_norm > 0)) {
    throw Error(text("max_norm is ", options.max_norm, "; expected above 0"));
  }
  if (options.ema_decay) {
    if (!has_ema) throw Error("ema_decay is given, but the artifacts keep no moving average");
    check("ema_decay", *options.ema_decay, 1);
  }
}

}  // namespace

class TrainSession::Impl {
 public:
  Impl(const std::filesystem::path& folder, const EngineOptions& options)
      : Impl(folder, options, open_artifact(folder)) {}

  StepResult step(ByteView images, const std::vector<TargetRow>& targets,
                  const StepOptions& options) {
    check_options(options, manifest_.ema);
    const PaddedTargets padded = batch_targets(images, targets);
    loop_.set("images", images);
    loop_.set("targets", padded.rows.data(), padded.rows.size());
    set_options(options);
    guarded("a training step failed", [this] { loop_.run(); });
    if (options.update) ++due_;
    return {loop_.number("loss"),
            {loop_.number("items", 0), loop_.number("items", 1), loop_.number("items", 2)},
            loop_.flag("skipped")};
  }

  Evaluation evaluate(ByteView images, const std::vector<TargetRow>& targets, bool ema) {
    check_ema(ema);
    PaddedTargets padded = batch_targets(images, targets);
    if (!evaluation_) {
      const std::string where = text(where_, "/eval_step.onnx");
      evaluation_.emplace(manifest_, open_graph(env_, evaluation_graph_, where, options_), where);
    }
    return guarded("an evaluation failed", [&] {
      return evaluation_->run(images, padded.rows,
                              [&](const std::string& name) -> const Ort::Value& {
                                return loop_.value(ema && name != "balance" ? "ema_" + name : name);
                              });
    });
  }

  TrainState state() const {
    TrainState state = read_vectors(manifest_, loop_);
    state.model.insert(frozen_.begin(), frozen_.end());
    state.skipped = due_ - state.updates;
    state.description = description_;
    return state;
  }

  void take(const TrainState& state, const std::string& source) {
    check_values(state, source);
    check_same_model(state, this->state(), source);
    load(state);
  }

  void start_from(const std::filesystem::path& path) {
    TrainState own = state();
    if (own.updates > 0) {
      throw Error(text("the session has made ", own.updates, " updates already; open a new one"));
    }
    const TrainState earlier = exportloss::load_state(path);
    check_description(earlier, name_of(path));
    own.model = earlier.model;
    for (const auto& [name, tensor] : earlier.ema) own.model[name] = tensor;
    for (auto& [name, tensor] : own.ema) {
      if (const auto found = own.model.find(name); found != own.model.end()) {
        tensor = found->second;
      }
    }
    take(own, name_of(path));
  }

  void save(const std::filesystem::path& path) const {
    const TrainState state = this->state();
    check_values(state, text("the session, of which nothing was written to ", name_of(path)));
    save_state(path, state);
  }

  void export_inference(const std::filesystem::path& path, bool ema) const {
    check_ema(ema);
    if (inference_.empty()) {
      throw Error("the artifacts have no inference.onnx, because their model has no `decode`");
    }
    std::map<std::string, ByteView> vectors;
    for (const auto& [name, layout] : detector_vectors(manifest_)) {
      const float* values = loop_.data(ema ? "ema_" + name : name);
      vectors.emplace(name, ByteView(reinterpret_cast<const std::uint8_t*>(values),
                                     layout->size * sizeof(float)));
    }
    const Bytes model = with_initializers(inference_, vectors);
    const Bytes checksum = model_checksum(model);
    write_file(path, {checksum, model});
  }

  const Manifest& manifest() const { return manifest_; }
  std::int64_t updates() const { return static_cast<std::int64_t>(*loop_.data("updates")); }
  std::int64_t skipped() const { return due_ - updates(); }
  std::vector<float> gradients() const {
    const float* values = loop_.data("gradients");
    return {values, values + loop_.size("gradients")};
  }

 private:
  Impl(const std::filesystem::path& folder, const EngineOptions& options, Artifact artifact)
      : options_(options),
        env_(make_environment()),
        manifest_(artifact.manifest),
        evaluation_graph_(std::move(artifact.files.at("eval_step.onnx"))),
        where_(name_of(folder)),
        loop_(open_train_graph(artifact)) {
    if (const auto found = artifact.files.find("inference.onnx"); found != artifact.files.end()) {
      inference_ = std::move(found->second);
    }
    const std::string source = text(where_, "/state.safetensors");
    const TrainState start = parse_state(artifact.file("state.safetensors"), source);
    check_values(start, source);
    check_layout_covered(manifest_, start, source);
    description_ = start.description;
    load(start);
  }

  Ort::Session open_train_graph(const Artifact& artifact) {
    const std::string where = text(where_, "/train_step.onnx");
    Ort::Session session = open_graph(env_, artifact.file("train_step.onnx"), where, options_);
    check_train_graph(manifest_, session, where);
    return session;
  }

  // Sets everything, once nothing can fail any more.
  void load(const TrainState& state) {
    Tensors frozen = frozen_tensors(manifest_, state);
    write_vectors(manifest_, state, loop_);
    frozen_ = std::move(frozen);
    due_ = state.updates + state.skipped;
  }

  PaddedTargets batch_targets(ByteView images, const std::vector<TargetRow>& targets) const {
    const std::size_t expected = elements(
        {manifest_.batch_size, 3, manifest_.image_size.height, manifest_.image_size.width});
    if (images.size() != expected) {
      throw Error(text("images have ", images.size(), " bytes; the graph was exported for ",
                       manifest_.batch_size, " x 3 x ", manifest_.image_size.height, " x ",
                       manifest_.image_size.width, ": letterbox and batch them, or export again"));
    }
    return pad_targets(targets, manifest_.max_targets, manifest_.batch_size,
                       manifest_.num_classes());
  }

  void set_options(const StepOptions& options) {
    const auto set = [this](const char* name, double value) {
      const auto narrow = static_cast<float>(value);
      loop_.set(name, &narrow, 1);
    };
    std::array<float, 3> rates{};
    for (std::size_t i = 0; i < 3; ++i) rates[i] = static_cast<float>(options.lr[i]);
    loop_.set("learning_rates", rates.data(), rates.size());
    set("momentum", options.momentum);
    set("weight_decay", options.weight_decay);
    set("max_norm", options.max_norm);
    loop_.set("update", options.update);
    if (manifest_.precision == "float16") set("loss_scale", options.loss_scale);
    if (manifest_.ema) set("ema_decay", options.ema_decay.value_or(decay_after(updates() + 1)));
  }

  void check_ema(bool wanted) const {
    if (wanted && !manifest_.ema) {
      throw Error(text(where_, " keeps no moving average of the weights; export it with --ema, or ",
                       "use the weights themselves"));
    }
  }

  void check_description(const TrainState& state, const std::string& where) const {
    for (const char* key : {"names", "anchors", "strides"}) {
      const auto theirs = state.description.find(key), mine = description_.find(key);
      if (theirs != state.description.end() && mine != description_.end() &&
          !(Json::parse(theirs->second) == Json::parse(mine->second))) {
        throw Error(text(where, " has ", key, ' ', excerpt(theirs->second), ", the artifacts ",
                         excerpt(mine->second), "; use the artifacts that it was trained with"));
      }
    }
  }

  EngineOptions options_;
  Ort::Env env_;
  Manifest manifest_;
  Bytes evaluation_graph_, inference_;
  std::string where_;
  StepLoop loop_;
  std::optional<EvaluationGraph> evaluation_;  // opened when first needed
  Tensors frozen_;
  std::map<std::string, std::string> description_;
  std::int64_t due_ = 0;  // optimizer steps, done or skipped
};

TrainSession::TrainSession(const std::filesystem::path& folder, const EngineOptions& options)
    : impl_(std::make_unique<Impl>(folder, options)) {}
TrainSession::~TrainSession() = default;
TrainSession::TrainSession(TrainSession&&) noexcept = default;
TrainSession& TrainSession::operator=(TrainSession&&) noexcept = default;

const Manifest& TrainSession::manifest() const { return impl_->manifest(); }

StepResult TrainSession::step(ByteView images, const std::vector<TargetRow>& targets,
                              const StepOptions& options) {
  return impl_->step(images, targets, options);
}

Evaluation TrainSession::evaluate(ByteView images, const std::vector<TargetRow>& targets,
                                  bool ema) {
  return impl_->evaluate(images, targets, ema);
}

std::int64_t TrainSession::updates() const { return impl_->updates(); }
std::int64_t TrainSession::skipped() const { return impl_->skipped(); }
std::vector<float> TrainSession::gradients() const { return impl_->gradients(); }
TrainState TrainSession::state() const { return impl_->state(); }
void TrainSession::load_state(const TrainState& state) { impl_->take(state, "the state"); }
void TrainSession::save(const std::filesystem::path& path) const { impl_->save(path); }

void TrainSession::resume(const std::filesystem::path& path) {
  impl_->take(exportloss::load_state(path), name_of(path));
}

void TrainSession::start_from(const std::filesystem::path& path) { impl_->start_from(path); }

void TrainSession::export_inference(const std::filesystem::path& path, bool ema) const {
  impl_->export_inference(path, ema);
}

}  // namespace exportloss
