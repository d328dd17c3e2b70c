"""Joseph's method: the planes that rays cross in a grid of voxels, and the weights of the linear interpolation on them.

A ray is sampled where it crosses the planes of voxel centres across the axis along which it passes most voxels; a sample interpolates linearly in the plane (2 voxels
in 2-D, 4 in 3-D; zero past the edge), and counts for the length of ray from plane to plane. So A x is the line integral: mm times the unit of the image.
Source: P. M. Joseph, An improved algorithm for reprojecting rays through pixel images, IEEE Trans. Med. Imaging 1, 1982.
"""

import itertools

import torch

__all__ = []

_OTHERS = {2: torch.tensor([[1], [0]]), 3: torch.tensor([[1, 2], [0, 2], [0, 1]])}


class Crossings:
    """Where `rays` lines cross the planes of a grid; all tensors (rays,), float64 or int64, those of the other axes (rays, d - 1).

    On plane i of axis `axis`, first <= i < first + count, the coordinates (in voxels) on the other axes are at + slope i; a plane counts for `step` mm, and lies
    (signed) `place` + i * `pitch` mm from the middle of the line, towards its end.
    """

    def __init__(self, start, end, shape, voxel_size, origin):
        size = torch.tensor(shape, dtype=torch.float64, device=start.device)
        p, d = (start - origin) / voxel_size, (end - start) / voxel_size
        self.axis = d.abs().argmax(-1)
        self.others = _OTHERS[len(shape)].to(start.device)[self.axis]
        along = lambda v: v.gather(-1, self.axis.unsqueeze(-1))
        pm, dm, n = along(p), along(d), along(size.expand_as(p))
        real = dm != 0
        dm = torch.where(real, dm, 1.0)
        across, self.slope = size[self.others], d.gather(-1, self.others) / dm
        self.at = p.gather(-1, self.others) - self.slope * pm
        # -1 < at + slope i < size on the other axes, between the ends, inside the grid
        level = self.slope == 0
        a, b = (-1 - self.at) / self.slope, (across - self.at) / self.slope
        inside = torch.where((self.at > -1) & (self.at < across), torch.inf, -torch.inf)
        low = torch.where(level, -inside, torch.minimum(a, b)).amax(-1, keepdim=True)
        high = torch.where(level, inside, torch.maximum(a, b)).amin(-1, keepdim=True)
        low = torch.maximum(low, torch.minimum(pm, pm + dm)).clamp(min=0).minimum(n).ceil()
        high = torch.minimum(torch.minimum(high, torch.maximum(pm, pm + dm)), n - 1).clamp(min=-1).floor()
        self.first, self.count = low.squeeze(-1).long(), torch.where(real, high - low + 1, 0.0).clamp(min=0).squeeze(-1).long()
        length = torch.linalg.vector_norm(end - start, dim=-1)
        self.pitch = length / dm.squeeze(-1)
        self.step, self.place = self.pitch.abs(), -length / 2 - pm.squeeze(-1) * self.pitch

    def samples(self):
        """(ray, plane) of every crossing, int64, ray by ray."""
        ray = torch.repeat_interleave(self.count)
        before = self.count.cumsum(0) - self.count
        return ray, torch.arange(len(ray), device=ray.device) - (before - self.first)[ray]

    def taps(self, ray, plane, shape):
        """[(sample, voxel, weight)] for each neighbour in the plane: the samples that have it, the index of the voxel in the flat image, the weight (mm)."""
        d = len(shape)
        strides = torch.tensor([torch.Size(shape[i + 1:]).numel() for i in range(d)], device=ray.device)
        size, stride = torch.tensor(shape, device=ray.device)[self.others], strides[self.others]
        u = self.at[ray] + self.slope[ray] * plane.unsqueeze(-1)
        low = u.floor()
        high, base, found = u - low, plane * strides[self.axis][ray], []
        low = low.long()
        for corner in itertools.product((0, 1), repeat=d - 1):
            j = low + torch.tensor(corner, device=ray.device)
            weight = self.step[ray] * torch.where(torch.tensor(corner, device=ray.device) == 1, high, 1 - high).prod(-1)
            sample = torch.nonzero(((j >= 0) & (j < size[ray])).all(-1) & (weight > 0)).squeeze(-1)
            found.append((sample, (base + (j * stride[ray]).sum(-1))[sample], weight[sample]))
        return found

    def select(self, which):
        """The crossings of some rays."""
        new = object.__new__(Crossings)
        vars(new).update({name: value[which] for name, value in vars(self).items()})
        return new

    def grid(self, shape, dtype):
        """For rays of one axis: the planes (p,) they cross, and the coordinates (p, rays, 1, 2) at which `torch.nn.functional.grid_sample` takes their samples."""
        planes = torch.arange(int(self.first.min()), int((self.first + self.count).max()), device=self.first.device)
        u = self.at + self.slope * planes[:, None, None]
        size = torch.tensor(shape, dtype=torch.float64, device=u.device)[self.others[0]]
        g = ((2 * u + 1) / size - 1).flip(-1)
        g[(planes[:, None] < self.first) | (planes[:, None] >= self.first + self.count)] = -9.0
        g = g if len(shape) == 3 else torch.cat([g, torch.zeros_like(g)], -1)
        return planes, g.to(dtype).unsqueeze(2)
