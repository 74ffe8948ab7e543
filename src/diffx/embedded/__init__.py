"""The small networks of the embedded data: a teacher for REPA and two feature networks for distances."""
