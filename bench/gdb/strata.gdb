# gdb's way to a machine that `make debug` holds; run from the top of the tree: gdb -x bench/gdb/strata.gdb
set pagination off
set confirm off
set architecture i386:x86-64
set max-value-size unlimited
file build/strata.elf.full
source bench/gdb/strata.py
target remote build/debug/gdb.socket
