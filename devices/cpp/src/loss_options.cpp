#include "loss_options.hpp"

#include <limits>

#include "exportloss/error.hpp"
#include "exportloss/file_format.hpp"

namespace exportloss {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

struct Range {
  const char* name;
  double least, most;
  bool includes_least = true, includes_most = true;
};

constexpr Range ranges[] = {
    {"box", 0, infinity, true, false},
    {"cls", 0, infinity, true, false},
    {"obj", 0, infinity, true, false},
    {"fl_gamma", 0, infinity, true, false},
    {"cls_pw", 0, infinity, false, false},
    {"obj_pw", 0, infinity, false, false},
    {"blur_alpha", 0, infinity, false, false},
    {"anchor_t", 1, infinity, false, false},
    {"label_smoothing", 0, 1, true, false},
    {"gr", 0, 1},
    {"focal_alpha", 0, 1},
};

bool is_flag(const std::string& name) { return name == "sort_obj_iou" || name == "autobalance"; }

void check_number(const Range& range, double value) {
  const bool is_above = range.includes_least ? value >= range.least : value > range.least;
  const bool is_below = range.includes_most ? value <= range.most : value < range.most;
  if (!is_above || !is_below) throw Error(text("the loss has ", range.name, ' ', value));
}

void check_option(const std::string& name, const Json& value, const std::string& path) {
  for (const Range& range : ranges) {
    if (name == range.name) return check_number(range, value.number());
  }
  if (is_flag(name)) {
    value.boolean();
  } else if (name == "criterion") {
    const std::string& found = value.string();
    if (found != "bce" && found != "focal" && found != "qfocal" && found != "blur") {
      refuse_newer(path, text("criterion ", excerpt(found)), "bce, focal, qfocal, blur");
    }
  } else {
    refuse_newer(path, text("loss key ", excerpt(name)), "the keys of LossConfig");
  }
}

}  // namespace

void check_loss(const Json& values, const std::string& path) {
  for (const auto& [name, value] : values.object()) check_option(name, value, path);
  const Json* criterion = values.find("criterion");
  const Json* exponent = values.find("fl_gamma");
  const std::string found = criterion == nullptr ? "bce" : criterion->string();
  const bool is_focal = exponent != nullptr && exponent->number() > 0;
  if ((found == "focal" || found == "qfocal") && !is_focal) {
    throw Error(text("criterion ", found, " needs fl_gamma above 0"));
  }
  if (found == "blur" && is_focal) throw Error("criterion blur takes no fl_gamma");
}

}  // namespace exportloss
