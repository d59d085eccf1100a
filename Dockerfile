# A server with OpenAI's chat completions: `docker build --target cpu -t linvt .`, or `--target cuda`.
#
#   docker run -p 8000:8000 -v /srv/models/linvt-mine:/model:ro -v linvt-cache:/cache linvt
#
# The model is a folder that save_pretrained(include_base=True) wrote, or an id on the Hub behind the image's name. What
# stands behind the image's name goes to `linvt serve` as it is.

FROM python:3.12-slim AS wheel
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

# --- CPU -------------------------------------------------------------------------------------------------------------
FROM python:3.12-slim AS cpu
COPY --from=wheel /wheels /wheels
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu "torch>=2.6" \
    && pip install --no-cache-dir "$(ls /wheels/*.whl)[serving]" \
    && rm -r /wheels \
    && useradd --create-home --uid 1000 linvt \
    && mkdir /cache && chown 1000 /cache
USER 1000
ENV HF_HOME=/cache/huggingface PYTHONUNBUFFERED=1
VOLUME /cache
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=10m \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
# in a container 0.0.0.0 is what the host's -p leads to; LINVT_API_KEY asks clients for a key
ENTRYPOINT ["linvt", "serve", "--host", "0.0.0.0", "--port", "8000", "--cache-dir", "/cache/videos"]
CMD ["/model"]

# --- CUDA ------------------------------------------------------------------------------------------------------------
# torch's wheels from PyPI bring the CUDA libraries; the driver comes from the host (NVIDIA Container Toolkit).
FROM python:3.12-slim AS cuda
COPY --from=wheel /wheels /wheels
RUN pip install --no-cache-dir "torch>=2.6" \
    && pip install --no-cache-dir "$(ls /wheels/*.whl)[serving]" \
    && rm -r /wheels \
    && useradd --create-home --uid 1000 linvt \
    && mkdir /cache && chown 1000 /cache
USER 1000
ENV HF_HOME=/cache/huggingface PYTHONUNBUFFERED=1 NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
VOLUME /cache
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=10m \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["linvt", "serve", "--host", "0.0.0.0", "--port", "8000", "--cache-dir", "/cache/videos", "--device", "cuda"]
CMD ["/model"]
