"""The benchmark: real processes of Threadline and of what it is compared with, side by side in one run.

    __main__     the command line              systems     Threadline, stock python-socketio, Node's socket.io
    rows         every row of the table        processes   starts, measures and ends processes, by their ids
    watcher      the raw client                peers       how the conductor talks with its helper processes
    load         the process of the clients    report      medians, table, JSON, docs/performance.md, plot
    steps        one step left out at a time   variants    the nodes and workers that lack one

docs/performance.md says what each row means and how to repeat it.
"""
