"""Samplers: from noise to data through the field that an objective hands them."""

from diffx.sampler.field import Field
from diffx.sampler.guidance import Guidance
from diffx.sampler.noise import SampleNoise
from diffx.sampler.ode import Euler, Heun
from diffx.sampler.sde import EulerMaruyama

__all__ = ["Euler", "EulerMaruyama", "Field", "Guidance", "Heun", "SampleNoise"]
