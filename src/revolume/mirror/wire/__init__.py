"""The mirror protocol: frames, messages, versions. No I/O."""
