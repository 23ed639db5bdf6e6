"""The event files that retort-train writes, read by TensorBoard itself: tensorboard.py EVENT_DUMP"""
import os
import subprocess
import sys
import tempfile

sys.path[:] = [p for p in sys.path if os.path.abspath(p or ".") != os.path.dirname(os.path.abspath(__file__))]  # we share its name
try:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "events.out.tfevents.1.test")
    subprocess.run([sys.argv[1], path], check=True)
    events = list(EventFileLoader(path).Load())  # verifies both checksums of every record
    assert events[0].file_version == "brain.Event:2", events[0]
    assert len(events) == 301, len(events)
    accumulator = EventAccumulator(folder, size_guidance={"scalars": 0})
    accumulator.Reload()
    assert accumulator.Tags()["scalars"] == ["align/loss", "align/lr"], accumulator.Tags()
    losses = accumulator.Scalars("align/loss")
    assert [e.step for e in losses] == list(range(1, 301))
    for event in losses:
        assert abs(event.value - 8.0 / event.step) < 1e-6, event
        assert event.wall_time == 1700000000.25 + event.step, event
    with open(path, "r+b") as file:  # the reader does look at checksums
        file.seek(200)
        byte = file.read(1)
        file.seek(200)
        file.write(bytes([byte[0] ^ 1]))
    try:
        damaged = len(list(EventFileLoader(path).Load()))
    except Exception:
        damaged = 0
    assert damaged < 301, "a damaged record went unnoticed"
print("ok: 300 steps, two scalars")
