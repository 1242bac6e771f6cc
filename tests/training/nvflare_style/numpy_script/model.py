import torch


class Zeros(torch.nn.Linear):
    def __init__(self):
        super().__init__(4, 2)
        with torch.no_grad():
            for value in self.parameters():
                value.zero_()
