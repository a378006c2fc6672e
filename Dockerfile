# docker build -t medvision . && docker run --rm -it -v "$PWD/runs:/project/runs" -v FOLDER:/data:ro medvision \
#     train experiment=segmentation data.root=/data
FROM python:3.11-slim
RUN pip install --no-cache-dir uv
WORKDIR /opt/medvision
COPY requirements.lock pyproject.toml README.md LICENSE ./
COPY conf conf
COPY src src
RUN uv pip install --system --no-cache --compile-bytecode -c requirements.lock '.[offline-weights,onnx,dicom,explain]'
RUN useradd --create-home user && mkdir -p /project/runs && chown -R user /project
USER user
WORKDIR /project
ENTRYPOINT ["medvision"]
CMD ["--help"]
