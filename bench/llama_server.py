#!/usr/bin/env python3
"""llama.cpp's server as the pip package xllamacpp has it, for those who have not built llama-server; takes the flags that vs_llama_server.py gives.

    pip install xllamacpp; bench/vs_llama_server.py RETORT bench/llama_server.py MODEL.gguf
"""
import argparse
import signal
import sys


def main():
    try:
        import xllamacpp
    except ImportError:
        sys.exit("llama_server.py: the package xllamacpp is not installed (pip install xllamacpp)")
    parser = argparse.ArgumentParser()
    for flag in ("-m", "--host", "-fa"):
        parser.add_argument(flag)
    for flag in ("--port", "-np", "-t", "-tb", "-c"):
        parser.add_argument(flag, type=int)
    parser.add_argument("--no-webui", action="store_true")
    flags = parser.parse_args()
    params = xllamacpp.CommonParams()
    params.model.path, params.hostnames, params.port = flags.m, [flags.host], flags.port
    params.n_parallel, params.n_ctx = flags.np, flags.c
    params.cpuparams.n_threads, params.cpuparams_batch.n_threads = flags.t, flags.tb
    params.flash_attn_type = getattr(xllamacpp.llama_flash_attn_type, "LLAMA_FLASH_ATTN_TYPE_ENABLED" if flags.fa == "on" else "LLAMA_FLASH_ATTN_TYPE_DISABLED")
    server = xllamacpp.Server(params)
    print(f"xllamacpp {xllamacpp.__version__}: {server.listening_address}", file=sys.stderr, flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


main()
