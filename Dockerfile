# lost-reg for CPUs; for NVIDIA cards: docker build --build-arg TORCH=cu126 (see docs/install.md).
FROM python:3.12-slim-bookworm

# OpenCV needs these two libraries.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*

ARG TORCH=cpu
RUN pip install --no-cache-dir torch torchvision --index-url "https://download.pytorch.org/whl/${TORCH}"

# Dependencies come before the code, so that a change of the code does not install them again.
WORKDIR /opt/lost-reg
COPY pyproject.toml README.md LICENSE ./
COPY lost_reg/version.py lost_reg/version.py
RUN touch lost_reg/__init__.py && pip install --no-cache-dir '.[heif]' && pip uninstall -y lost-reg
COPY lost_reg lost_reg
RUN pip install --no-cache-dir --no-deps .

# Any user may run it: docker run --user "$(id -u):$(id -g)".
RUN mkdir -m 1777 /cache /work
ENV HOME=/cache HF_HOME=/cache/huggingface TORCH_HOME=/cache/torch XDG_STATE_HOME=/cache/state PYTHONUTF8=1
WORKDIR /work
ENTRYPOINT ["lost-reg"]
