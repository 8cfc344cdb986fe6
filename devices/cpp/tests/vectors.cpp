// vectors FOLDER SCRATCH: runs the test vectors of the formats, tests/vectors.
#include "vectors.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>

#include "exportloss/error.hpp"
#include "exportloss/files.hpp"

namespace vectors {
namespace {

using exportloss::Reason;

const std::map<Reason, std::string> codes{
    {Reason::unreadable, "unreadable"}, {Reason::damaged, "damaged"},
    {Reason::newer, "newer"},           {Reason::incomplete, "incomplete"},
    {Reason::values, "values"},         {Reason::missing, "missing"},
    {Reason::too_large, "too-large"},   {Reason::too_many, "too-many"},
    {Reason::outside, "outside"},       {Reason::bad_rows, "bad-rows"},
    {Reason::foreign, "foreign"},       {Reason::other, "other"}};

}  // namespace

Bytes Suite::read(const std::string& name) const {
  return exportloss::read_bounded(folder / name, 1 << 26);
}

// "accept", or the code of the refusal.
std::string outcome(const std::function<void()>& call) {
  try {
    call();
    return "accept";
  } catch (const exportloss::Error& error) {
    return codes.at(error.reason());
  }
}

double number(const Json& value) {
  if (!value.is_string()) return value.number();
  if (value.string() == "NaN") return std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  return value.string() == "Infinity" ? infinity : -infinity;
}

std::vector<double> numbers(const Json& values) {
  std::vector<double> found;
  for (const Json& value : values.array()) found.push_back(number(value));
  return found;
}

bool same_bits(float one, double other) {
  const auto narrow = static_cast<float>(other);
  return std::memcmp(&one, &narrow, sizeof one) == 0;
}

bool near(double one, double other, double bound) {
  return std::abs(one - other) <= bound * std::max(1.0, std::abs(other));
}

Bytes from_hex(const std::string& digits) {
  Bytes bytes;
  for (std::size_t i = 0; i < digits.size(); i += 2) {
    bytes.push_back(static_cast<std::uint8_t>(std::stoi(digits.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

std::vector<float> floats(const Bytes& bytes) {
  std::vector<float> values(bytes.size() / sizeof(float));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

exportloss::Size size_of(const Json& sides) {
  return {sides.array().at(0).integer(), sides.array().at(1).integer()};
}

}  // namespace vectors

int main(int count, char** arguments) {
  using namespace vectors;
  if (count != 3) return 2;
  Suite suite{arguments[1], arguments[2], {}};
  const std::map<std::string, void (*)(Suite&, const Json&, const std::string&)> runs{
      {"states", run_state},       {"manifests", run_manifest},
      {"folders", run_folder},     {"layouts", run_layout},
      {"targets", run_target},     {"images", run_image},
      {"schedules", run_schedule}, {"nms", run_nms},
      {"metrics", run_metrics},    {"detectors", run_detector}};
  for (const auto& [file, run] : runs) {
    const Bytes content = suite.read(file + ".json");
    const Json tests = Json::parse(exportloss::ByteView(content).text());
    suite.report.that(!tests.array().empty(), file + " has cases");
    for (const Json& test : tests.array()) {
      const std::string name = file + ": " + test.at("name").string();
      try {
        run(suite, test, name);
      } catch (const std::exception& error) {
        suite.report.that(false, name + ": " + error.what());
      }
    }
  }
  return suite.report.finish("vectors");
}
