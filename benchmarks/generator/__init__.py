"""The load generator: a process of raw non-blocking sockets and one epoll, told what to do over its standard input.

It is made to cost less than what it measures. Of each frame only the header is looked at, runs of frames with equal headers
are checked with a few slices, and the numbers of an update are read at the place where the first of its run has them.
`benchmarks.load` has the other end.
"""
