// All of the device runtime: see docs/cpp.md.
#pragma once

#include "exportloss/artifact.hpp"
#include "exportloss/detector.hpp"
#include "exportloss/error.hpp"
#include "exportloss/images.hpp"
#include "exportloss/letterbox.hpp"
#include "exportloss/manifest.hpp"
#include "exportloss/metrics.hpp"
#include "exportloss/nms.hpp"
#include "exportloss/schedule.hpp"
#include "exportloss/session.hpp"
#include "exportloss/state.hpp"
#include "exportloss/targets.hpp"
