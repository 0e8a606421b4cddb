"""Generated from proto/imagecall/v1 by scripts/generate. Do not edit."""
