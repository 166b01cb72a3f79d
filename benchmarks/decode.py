"""The decoder's speed: `redraft bench decode` as a script.

OMP_NUM_THREADS=1 python benchmarks/decode.py                          # naive, cached, slots, vLLM; tiny and mid
python benchmarks/decode.py --random-weights mini                      # on a GPU, against its memory bandwidth
"""

import sys

from rl.cli.main import main

if __name__ == "__main__":
    sys.argv[1:1] = ["bench", "decode"]
    main()
