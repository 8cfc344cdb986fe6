// What the test vectors' programs share.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "check.hpp"
#include "exportloss/bytes.hpp"
#include "exportloss/json.hpp"
#include "exportloss/manifest.hpp"

namespace vectors {

using exportloss::Bytes;
using exportloss::Json;

/// The vectors' folder, a folder to write to, and what was found.
struct Suite {
  std::filesystem::path folder, scratch;
  check::Report report;

  Bytes read(const std::string& name) const;
};

/// "accept", or the code of the refusal.
std::string outcome(const std::function<void()>& call);

/// Numbers, of which NaN and the infinities are texts.
double number(const Json& value);
std::vector<double> numbers(const Json& values);
exportloss::Size size_of(const Json& sides);

bool same_bits(float one, double other);
bool near(double one, double other, double bound);
Bytes from_hex(const std::string& digits);
std::vector<float> floats(const Bytes& bytes);

// One per file of vectors; `name` is for messages.
void run_state(Suite& suite, const Json& test, const std::string& name);
void run_manifest(Suite& suite, const Json& test, const std::string& name);
void run_folder(Suite& suite, const Json& test, const std::string& name);
void run_layout(Suite& suite, const Json& test, const std::string& name);
void run_detector(Suite& suite, const Json& test, const std::string& name);
void run_target(Suite& suite, const Json& test, const std::string& name);
void run_image(Suite& suite, const Json& test, const std::string& name);
void run_schedule(Suite& suite, const Json& test, const std::string& name);
void run_nms(Suite& suite, const Json& test, const std::string& name);
void run_metrics(Suite& suite, const Json& test, const std::string& name);

}  // namespace vectors
