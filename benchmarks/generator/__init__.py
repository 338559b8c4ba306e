"""The load generator: a process of raw non-blocking sockets and one epoll, which `benchmarks.load` commands.

It must cost less than what it measures. Of each frame only the header is parsed, runs of frames with equal headers are
checked with a few slices, and the numbers of an update are read where the first update of its run has them.
"""
