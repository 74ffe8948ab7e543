"""Samplers: from noise to data through the field that an objective hands them."""

from diffx.sampler.ancestral import Ancestral
from diffx.sampler.dopri5 import Dopri5
from diffx.sampler.edm import EDMHeun
from diffx.sampler.field import Field, check_fit
from diffx.sampler.guidance import AnyGuidance, Guidance
from diffx.sampler.meanflow import MeanFlowSteps
from diffx.sampler.noise import SampleNoise
from diffx.sampler.ode import Euler, Heun
from diffx.sampler.sde import EulerMaruyama

__all__ = [
    "Ancestral",
    "AnyGuidance",
    "Dopri5",
    "EDMHeun",
    "Euler",
    "EulerMaruyama",
    "Field",
    "Guidance",
    "Heun",
    "MeanFlowSteps",
    "SampleNoise",
    "check_fit",
]
