#include <algorithm>
#include <cmath>
#include <vector>

#include "exportloss/error.hpp"
#include "exportloss/limits.hpp"
#include "exportloss/state.hpp"

namespace exportloss {
namespace {

bool ends_with(const std::string& name, const std::string& ending) {
  return name.size() >= ending.size() &&
         name.compare(name.size() - ending.size(), ending.size(), ending) == 0;
}

void check_tensors(const std::string& source, const std::string& what, const Tensors& tensors) {
  for (const auto& [name, tensor] : tensors) {
    const auto where = [&, &key = name] {
      return text(source, ": ", what, " tensor ", excerpt(key, 200));
    };
    const auto& values = tensor.values;
    if (!std::all_of(values.begin(), values.end(),
                     [](float value) { return std::isfinite(value); })) {
      throw Error(text(where(), " holds values that are not finite; train with a lower learning ",
                       "rate, or use an earlier state"),
                  Reason::values);
    }
    const bool is_square =
        what == "exp_avg_sq" || what == "square_avg" || ends_with(name, ".running_var");
    if (is_square &&
        std::any_of(values.begin(), values.end(), [](float value) { return value < 0; })) {
      throw Error(text(where(), " holds negative values; expected means of squares"),
                  Reason::values);
    }
  }
}

void check_same(const std::string& source, const std::string& what, const Tensors& theirs,
                const Tensors& mine) {
  const auto other = [&](const char* verb, const std::string& name) {
    return Error(text(source, " is of another model or kind of training: it ", verb, ' ', what,
                      " tensor ", excerpt(name, 200),
                      "; use the artifacts that it was trained with"));
  };
  for (const auto& [name, tensor] : mine) {
    const auto found = theirs.find(name);
    if (found == theirs.end()) throw other("lacks", name);
    if (found->second.shape != tensor.shape) throw other("has another shape of", name);
  }
  for (const auto& [name, tensor] : theirs) {
    if (mine.count(name) == 0) throw other("has an unknown", name);
  }
}

}  // namespace

void check_values(const TrainState& state, const std::string& source) {
  for (const std::int64_t count : {state.updates, state.skipped}) {
    if (count < 0 || count >= limits::updates) {
      throw Error(
          text(source, " has ", count, " updates or skipped updates; expected an integer >= 0"),
          Reason::values);
    }
  }
  check_tensors(source, "model", state.model);
  for (const auto& [what, tensors] : state.optimizer) check_tensors(source, what, tensors);
  check_tensors(source, "moving average (EMA)", state.ema);
  check_tensors(source, "objectness", {{"balance", {{}, state.balance}}});
}

void check_same_model(const TrainState& state, const TrainState& own, const std::string& source) {
  check_same(source, "model", state.model, own.model);
  for (const auto& [what, tensors] : own.optimizer) {
    const auto found = state.optimizer.find(what);
    check_same(source, what, found == state.optimizer.end() ? Tensors{} : found->second, tensors);
  }
  for (const auto& [what, tensors] : state.optimizer) {
    if (own.optimizer.count(what) == 0) {
      throw Error(text(source, " is of another kind of training: it holds ", excerpt(what),
                       "; use the artifacts that it was trained with"));
    }
  }
  if (!own.ema.empty()) check_same(source, "moving average (EMA)", state.ema, own.ema);
  if (state.balance.size() != own.balance.size()) {
    throw Error(text(source, " is of another model: balance has ", state.balance.size(),
                     " levels, expected ", own.balance.size()));
  }
}

}  // namespace exportloss
