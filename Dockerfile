# diffx on a GPU: docker build -t diffx . && docker run --gpus all --shm-size 8g -v $PWD/runs:/home/diffx/runs diffx plugins=[repa]
# PyTorch's wheels bring their own CUDA; the base has the runtime that the driver is met through, and Python 3.12.
FROM nvidia/cuda:13.0.1-runtime-ubuntu24.04

# gcc and Python's headers: torch.compile builds the launchers of its kernels.
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv python3-dev gcc g++ git \
    && rm -rf /var/lib/apt/lists/*

RUN python3 -m venv /opt/diffx
ENV PATH=/opt/diffx/bin:$PATH OMP_WAIT_POLICY=passive

WORKDIR /opt/source
COPY . .
RUN pip install --no-cache-dir --constraint constraints.txt . && rm -rf /opt/source

# Runs and data are mounted here; diffx writes to ./runs and looks for ./data and ./conf.
WORKDIR /home/diffx
ENTRYPOINT ["diffx"]
