"""What training costs, in arithmetic and memory: computed from sizes alone, without torch."""
