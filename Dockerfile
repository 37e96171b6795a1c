# googlenet on a CPU, without root.   docker build -t googlenet . && docker run --rm googlenet doctor
#   docker run --rm -v "$PWD":/data googlenet train --data photos/
#   docker run --rm -p 7860:7860 -v "$PWD":/data googlenet demo runs/x --host 0.0.0.0

FROM python:3.12-slim AS build
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
# PyTorch's own index has it for CPUs only, without gigabytes of CUDA
RUN python -m venv /opt/googlenet \
 && /opt/googlenet/bin/pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
        -c constraints.txt '.[export,demo]'

FROM python:3.12-slim
# The compiler is for the C max pool, which makes training on a CPU faster
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev libgomp1 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 1000 googlenet \
 && mkdir /data /cache && chown googlenet /data /cache
COPY --from=build /opt/googlenet /opt/googlenet
ENV PATH=/opt/googlenet/bin:$PATH PYTHONUNBUFFERED=1 XDG_CACHE_HOME=/data/.cache
USER 1000
WORKDIR /data
ENTRYPOINT ["googlenet"]
CMD ["--help"]
