# hjepa serve: docker build -f docker/serve.Dockerfile -t hjepa-serve .
# For CUDA: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130
FROM python:3.11-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir --constraint constraints.txt --extra-index-url "${TORCH_INDEX}" torch torchvision \
    && pip install --no-cache-dir --constraint constraints.txt '.[serve,search,tiff,heif]' \
    && useradd --create-home --uid 1000 hjepa

USER hjepa
EXPOSE 8000
# The container's own network: which addresses of the host reach it is decided by docker run -p.
ENTRYPOINT ["hjepa", "serve", "--host", "0.0.0.0"]
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health')"]
