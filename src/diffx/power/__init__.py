"""What a study must cost before it can answer: the seeds that a difference needs, and when a sweep may stop early."""
