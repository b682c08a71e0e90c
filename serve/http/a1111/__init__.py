"""The interface of AUTOMATIC1111's web UI, as front ends call it: `/sdapi/v1`."""
