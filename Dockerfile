# The labs on one machine, for a browser on the same: INSTRUCTORS.md says how. Python of the
# pins' range; torch's build for the CPU, since the one of PyPI brings gigabytes of CUDA.
FROM python:3.12-slim
RUN useradd --create-home student
WORKDIR /opt/idl_lab
COPY pyproject.toml requirements.txt README.md LICENSE ./
COPY idl_lab idl_lab
COPY notebooks notebooks
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
    -c requirements.txt '.[labs]'
USER student
WORKDIR /home/student
EXPOSE 8888
# The labs lie in /home/student/labs: a folder of the laptop that is mounted there keeps the answers.
CMD ["idl-lab", "lab", "labs", "--no-browser", "--port", "8888", "--ip", "0.0.0.0"]
