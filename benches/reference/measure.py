"""The clock and the memory."""

import resource
import statistics
import time

import torch

GIB = 1 << 30


def timed(call, runs, device):
    """After a call that warms up."""
    return timed_by_turns([call], runs, device)[0]


def timed_by_turns(calls, runs, device):
    """Every call once to warm up, then all of them in each of the rounds that count."""
    rounds = [[seconds(call, device) for call in calls] for _ in range(runs + 1)][1:]
    return [told(taken) for taken in zip(*rounds, strict=True)]


def told(runs):
    return {"median_s": statistics.median(runs), "best_s": min(runs), "runs_s": list(runs)}


def seconds(call, device):
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def memory_before(device):
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / GIB
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass  # then the peak is that since the program began
    return status("VmRSS")


def memory_since(device, before):
    peak = torch.cuda.max_memory_allocated() / GIB if device.type == "cuda" else status("VmHWM")
    if peak is None or before is None:
        return {"peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB}
    return {"peak_gib": peak, "weights_gib": before, "above_weights_gib": peak - before}


def status(name):
    try:
        with open("/proc/self/status") as file:
            line = next(line for line in file if line.startswith(name + ":"))
    except OSError:
        return None
    return int(line.split()[1]) * 1024 / GIB
