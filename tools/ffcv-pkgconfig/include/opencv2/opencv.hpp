// Stands in for the header of libopencv-dev that includes every module: FFCV calls cv::resize alone.
#pragma once
#include <opencv2/core.hpp>
#include <opencv2/imgproc.hpp>
