/* Names, units, ranges and check samples from the model file's metadata. */
#ifndef EMU_METADATA_H
#define EMU_METADATA_H

#include "error.h"
#include "model.h"
#include "onnx.h"

bool emu_read_metadata(const onnx_model *onnx, emu_model *model, emu_error *error);

#endif
