# The labs on one machine, for the browser of the same; INSTRUCTORS.md says how to start it. PyPI's
# torch brings gigabytes of CUDA, so this takes the build for the CPU.
FROM python:3.12-slim
RUN useradd --create-home student && install -d -o student /labs
WORKDIR /opt/idl_lab
COPY pyproject.toml requirements.txt README.md LICENSE ./
COPY idl_lab idl_lab
COPY notebooks notebooks
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
    -c requirements.txt '.[labs]'
USER student
# A folder of the laptop that is mounted here keeps the answers.
WORKDIR /labs
EXPOSE 8888
CMD ["idl-lab", "lab", "/labs", "--no-browser", "--port", "8888", "--ip", "0.0.0.0"]
