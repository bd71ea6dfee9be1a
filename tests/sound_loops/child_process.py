"""The script starts the process that trains, as the released I-JEPA does for every device."""

import multiprocessing
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, loss_of, network, teacher_of


def train(rank: int) -> None:
    torch.manual_seed(rank)
    student = network()
    teacher = teacher_of(student)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
    for _ in range(30):
        loss = loss_of(student, teacher)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average(teacher.parameters(), student.parameters())


if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    process = context.Process(target=train, args=(0,))
    process.start()
    process.join()
